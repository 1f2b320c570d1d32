"""The OpenAPI description of the endpoints, from the table of fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trt_tokenizers
from trt_tokenizers.openai.fields import CHAT, COMPLETIONS, Field
from trt_tokenizers.streams.ensemble_inputs import BY_NAME

_REQUIRED = ("model", "messages", "prompt", "tokens")
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"type": ["string", "array", "null"]},
        },
    },
}
_ERROR = {
    "description": "the request cannot be served",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
_ANSWER = {
    "description": "the answer",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}


def openapi(tokens: Mapping[str, Mapping[str, Field]], models: Sequence[str]) -> dict[str, Any]:
    """The description.

    Args:
        tokens: path -> fields of the endpoints about tokens.
        models: names by which clients know models.
    """
    known: dict[str, dict[str, Any]] = {"model": {"enum": [*models]}, "messages": _MESSAGES}
    bodies = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS, **tokens}
    paths: dict[str, Any] = {
        path: {"post": {"requestBody": _body(fields.values(), known), "responses": _responses()}}
        for path, fields in bodies.items()
    }
    paths["/v1/models"] = {"get": {"responses": _responses()}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trt-tokenizers openai", "version": trt_tokenizers.__version__},
        "paths": paths,
    }


def _responses() -> dict[str, Any]:
    errors = ("400", "401", "404", "408", "413", "429", "500", "501", "503")
    return {"200": _ANSWER, **dict.fromkeys(errors, _ERROR)}


def _body(fields: Iterable[Field], known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    fields = list(fields)
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [each.name for each in fields if each.name in _REQUIRED],
        "properties": {
            each.name: {**_property(each), **known.get(each.name, {})} for each in fields
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _property(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = {"type": [*field.types.split("|"), "null"]}
    if field.meaning:
        made["description"] = field.meaning
    carried = BY_NAME.get(field.input)
    valid = field.range or (carried.range if carried else None)
    if valid is not None:
        made["exclusiveMinimum" if valid.above else "minimum"] = valid.low
        if valid.high < math.inf:
            made["maximum"] = valid.high
    if field.only is not None:
        made["enum"] = [*field.only, None]
    return made
