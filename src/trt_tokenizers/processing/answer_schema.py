"""A JSON schema that answers must follow: the guide for the engine, and the check of its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import EngineError, RequestError, SettingsError, one_line

_MESSAGE = 200  # characters of jsonschema's messages, which may quote the whole answer


class AnswerSchema:
    """A JSON schema.

    Attributes:
        inputs: the ensemble's inputs that make the engine follow the schema.
    """

    def __init__(self, text: str) -> None:
        """Parse the schema *text*.

        Raises:
            SettingsError: it is no JSON schema, or jsonschema is not installed.
        """
        try:
            import jsonschema
            from referencing import Registry
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"the module {error.name}, which checks answers, is missing; "
                "pip install 'trt-tokenizers[schema]'"
            ) from None
        schema = _parse(text)
        if not isinstance(schema, dict):
            raise SettingsError("it is no JSON schema: a schema is an object; correct it")
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise SettingsError(f"it is no JSON schema: {_where(error)}; correct it") from None
        # With jsonschema's own registry a $ref to another host would be fetched.
        self._validator = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)
        self.inputs = {
            "guided_decoding_guide_type": "json_schema",
            "guided_decoding_guide": text,
        }

    @classmethod
    def read(cls, path: Path) -> AnswerSchema:
        """The schema in a file.

        Raises:
            SettingsError: as in the constructor; names the file.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (SettingsError, UnicodeDecodeError) as error:
            what = error if isinstance(error, SettingsError) else "it is not UTF-8; correct it"
            raise SettingsError(f"{path}: {what}") from None

    def check(self, text: str, finish_reason: str, max_tokens: int) -> None:
        """Check a whole answer.

        Args:
            finish_reason: the ensemble's output.
            max_tokens: that of the request.

        Raises:
            RequestError: max_tokens cut the answer.
            EngineError: the answer does not follow the schema.
        """
        if finish_reason == "length":
            raise RequestError(
                f"the answer was cut by max_tokens = {max_tokens}; raise max_tokens, or ask for "
                "less with maxLength and maxItems in the schema"
            )
        from referencing.exceptions import Unresolvable

        try:
            problem = next(self._validator.iter_errors(json.loads(text)), None)
            why = _where(problem) if problem else ""
        except Unresolvable as error:
            why = one_line(error)
        except (ValueError, RecursionError) as error:
            why = f"it is not JSON ({error})"
        if why:
            raise EngineError(
                f"the answer does not follow the schema: {why}; the server needs an engine and an "
                "ensemble with guides, see docs/engines.md"
            )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"it is not JSON: {error}; correct it") from None


def _where(error: Any) -> str:
    """Message and place of jsonschema's *error*."""
    return f"{' '.join(error.message.split())[:_MESSAGE]} at {error.json_path}"
