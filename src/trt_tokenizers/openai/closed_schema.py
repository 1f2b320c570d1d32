"""A client's JSON schema as XGrammar reads it: objects have the declared properties only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

#: Keywords that say something about other properties of an object.
_OPEN = {
    "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "$ref",
    "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependentRequired", "minProperties",
}  # fmt: skip
#: Keywords by which several schemas describe one object: each, or two of the second set.
_COMBINING = {"allOf", "if", "not", "dependentSchemas", "unevaluatedProperties"}
_DESCRIBING = {"properties", "$ref", "anyOf", "oneOf"}


def closed(schema: Schema) -> Schema:
    """*schema* without other properties in objects that do not say whether they may have them.

    With other libraries than XGrammar a small model adds properties without end. If several schemas
    describe one object anywhere, parts of *schema* stay as they are.
    """
    try:
        made = copy.deepcopy(schema)
        parts = list(_parts(made))
    except RecursionError:  # such a schema is refused later
        return schema
    if any(p.keys() & _COMBINING or len(p.keys() & _DESCRIBING) > 1 for p in (made, *parts)):
        parts = []
    for part in (made, *parts):
        known, required = part.get("properties"), part.get("required", [])
        if not isinstance(known, dict) or not isinstance(required, list) or part.keys() & _OPEN:
            continue
        if {name for name in required if isinstance(name, str)} <= known.keys():
            part["additionalProperties"] = False
    return made


def _parts(schema: Schema) -> Iterator[Schema]:
    """All schemas inside *schema*."""
    for name, value in schema.items():
        found: Any = ()
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            found = value.values()
        elif name in ("prefixItems", "anyOf", "oneOf") and isinstance(value, list):
            found = value
        elif name in ("items", "additionalProperties"):
            found = (value,)
        for part in found:
            if isinstance(part, dict):
                yield part
                yield from _parts(part)
