"""What a client demands of an answer's form -> a guide, by which the engine chooses tokens.

Guides that are structural tags have XGrammar's form, which all engines understand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_tokenizers.openai.api_error import ApiError, refused
from trt_tokenizers.openai.closed_schema import closed
from trt_tokenizers.openai.fields import as_bytes, as_json
from trt_tokenizers.openai.parsing import ReasoningFormat, ToolFormat
from trt_tokenizers.openai.parsing.answer import ended, inside
from trt_tokenizers.settings import nearest

#: A format of a structural tag.
Format = dict[str, Any]

TYPE, TEXT = "guided_decoding_guide_type", "guided_decoding_guide"
GUIDED = (
    "ask a server with the engine transformers, vllm or llmapi, or with TensorRT-LLM's backend, "
    "whose repository was generated with these inputs"
)
#: Tool parsers whose families write arguments as JSON.
JSON_CALLS = ("deepseek_v3", "gpt_oss", "granite", "hermes", "kimi", "llama3_json", "mistral")
_OBJECT = {"type": "object"}
_NO_ARGUMENTS = {**_OBJECT, "properties": {}, "additionalProperties": False}
_NEWLINES = {"type": "regex", "pattern": r"\n{0,2}"}
_TOOL_NAME = re.compile(r"[\w.:/-]{1,128}")
#: Field of `structured_outputs` -> vLLM's older field of the request; empty: there was none.
_OLDER = {
    "json": "guided_json", "regex": "guided_regex", "choice": "guided_choice",
    "grammar": "guided_grammar", "structural_tag": "", "json_object": "",
}  # fmt: skip


@dataclass(frozen=True)
class Guide:
    """A guide.

    Attributes:
        kind: the ensemble's `guided_decoding_guide_type`.
        value: the schema as parsed JSON; a text for other kinds, empty for ``json``.
        field: the client's field.
    """

    kind: str
    value: Any
    field: str

    @property
    def inputs(self) -> dict[str, bytes]:
        """Inputs of the ensemble.

        Raises:
            ApiError: 400, a text has half of a surrogate pair, or the nesting is too deep.
        """
        if self.kind == "json":
            return {TYPE: b"json"}
        encode = as_bytes if isinstance(self.value, str) else as_json
        return {TYPE: self.kind.encode(), TEXT: encode(self.value, self.field)}

    @property
    def fields(self) -> dict[str, str]:
        """Input -> the field that an error of the ensemble is about."""
        return {TYPE: self.field, TEXT: "tools" if self.field == "tool_choice" else self.field}

    @property
    def format(self) -> Format:
        """The same as a format of a structural tag."""
        match self.kind:
            case "regex":
                return {"type": "regex", "pattern": self.value}
            case "ebnf_grammar":
                return {"type": "grammar", "grammar": self.value}
        return _json(_OBJECT if self.kind == "json" else self.value)


def parse_guide(given: Mapping[str, Any]) -> Guide | None:
    """The guide that the fields *given* demand.

    Raises:
        ApiError: 400, names the field that is wrong, or the second of two that demand a guide.
    """
    found = [
        *_of_response_format(given.get("response_format", {"type": "text"})),
        *_of_structured_outputs(given.get("structured_outputs", {})),
        *(_of_vllm(name, given[older], older) for name, older in _OLDER.items() if older in given),
    ]
    if len(found) > 1:
        first, second = (guide.field for guide in found[:2])
        which = f"{first} and {second} are" if first != second else f"{first} has"
        raise refused(second, f"{which} two guides, but an answer follows one; send one")
    return found[0] if found else None


def _of_response_format(value: Mapping[str, Any]) -> list[Guide]:
    field, kind = "response_format", value.get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        return [Guide("json", "", field)]
    if kind != "json_schema":
        raise refused(field, "response_format.type must be text, json_object or json_schema")
    described = value.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise refused(field, "response_format.json_schema.schema is missing or no object; send a "
                      "JSON schema")  # fmt: skip
    return [Guide("json_schema", closed(schema), field)]


def _of_structured_outputs(value: Mapping[str, Any]) -> list[Guide]:
    field, found = "structured_outputs", []
    for name, each in value.items():
        if name not in _OLDER and each not in (None, False):
            raise refused(field, f"{field}.{name[:64]} is not served{nearest(name[:64], _OLDER)}; "
                          "leave it out")  # fmt: skip
        if each is not None and each is not False:
            found.append(_of_vllm(name, each, field))
    return found


def _of_vllm(name: str, value: Any, field: str) -> Guide:
    """The guide of the field *name* of vLLM's `structured_outputs`."""
    where = field if field == _OLDER[name] else f"{field}.{name}"
    if name == "json_object":
        if value is not True:
            raise refused(field, f"{where} must be true or false")
        return Guide("json", "", field)
    if name == "choice":
        if not value or not isinstance(value, list) or not all(isinstance(c, str) for c in value):
            raise refused(field, f"{where} must be a list of at least one text")
        return Guide("regex", "|".join(map(_escaped, value)), field)
    if name == "json":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise refused(field, f"{where} is not JSON: {error}; send a JSON schema") from None
        if not isinstance(value, dict):
            raise refused(field, f"{where} must be a JSON schema, which is an object")
        return Guide("json_schema", closed(value), field)
    if name == "structural_tag" and isinstance(value, dict):
        return Guide(name, value, field)
    if not isinstance(value, str) or not value:
        raise refused(field, f"{where} must be a text that is not empty")
    return Guide("ebnf_grammar" if name == "grammar" else name, value, field)


def _escaped(text: str) -> str:
    """*text* as a regular expression. `re.escape` escapes more than other libraries know."""
    return re.sub(r"[\\^$.|?*+()\[\]{}/]", r"\\\g<0>", text).replace("\n", r"\n")


def parse_forced(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of which the answer must call one; empty: it need not call any.

    Raises:
        ApiError: 400, names `tool_choice` or `tools`.
    """
    choice, tools = given.get("tool_choice", "auto"), given.get("tools") or []
    if choice in ("auto", "none"):
        return []
    name = None
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
    if choice != "required" and not isinstance(name, str):
        raise refused(
            "tool_choice", "tool_choice must be auto, none, required, or "
            '{"type": "function", "function": {"name": …}}'
        )  # fmt: skip
    if not tools:
        raise refused("tool_choice", "tool_choice demands a call, but tools is missing or empty; "
                      "send tools")  # fmt: skip
    forced = tools if name is None else [tool for tool in tools if _name(tool) == name]
    if not forced:
        raise refused("tool_choice", f"tool_choice names {str(name)[:128]!r}, which is not among "
                      "the tools")  # fmt: skip
    return forced


def _name(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def chat_guide(
    guide: Guide | None,
    tools: Sequence[dict[str, Any]],
    parsers: tuple[ToolFormat, ReasoningFormat],
    *,
    forced: bool,
    chat_template: str,
    prompt_end: str,
) -> Guide:
    """The guide of an answer that may begin with reasoning and may be a call.

    Args:
        guide: what the client demands of content; None if a call is forced.
        tools: those that may be called.
        parsers: formats of calls and of reasoning.
        forced: the answer must be a call.
        chat_template: of the model.
        prompt_end: end of the prompt, which may begin the reasoning.

    Raises:
        ApiError: 400, calls of the model have no form for a guide, or a tool has no usable name.
    """
    tool, reasoning = parsers
    choices = []
    if guide is not None:
        choices.append(_tag(reasoning.final, guide.format) if reasoning.final else guide.format)
    if tools:
        choices += _calls(tools, tool, chat_template, forced=forced)
    before = _reasoning(reasoning, prompt_end)
    if guide is not None and choices == [guide.format] and before is None:
        return guide
    format_ = _or(choices)
    if before is not None:
        format_ = {"type": "sequence", "elements": [before, _NEWLINES, format_]}
    field = "tool_choice" if guide is None else guide.field
    return Guide("structural_tag", {"type": "structural_tag", "format": format_}, field)


def _calls(
    tools: Sequence[Any], tool: ToolFormat, chat_template: str, *, forced: bool
) -> list[Format]:
    """One call of each of *tools*."""
    form = next((each for each in tool.calls if each.sign in chat_template), None)
    if form is None:
        raise _no_form(forced=forced)
    found = []
    for number, each in enumerate(tools):
        name = _name(each)
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise refused("tools", f"tools[{number}].function.name must be 1 to 128 letters, "
                          "digits or any of _.:/-")  # fmt: skip
        parameters = each["function"].get("parameters", _NO_ARGUMENTS)
        if not isinstance(parameters, dict):
            raise refused("tools", f"tools[{number}].function.parameters must be an object")
        begin = form.begin.replace("{name}", name)
        found.append(_tag(begin, _json(closed({**_OBJECT, **parameters})), form.end))
    return found


def _no_form(*, forced: bool) -> ApiError:
    names = ", ".join(JSON_CALLS)
    if forced:
        return refused(
            "tool_choice", "tool_choice: this server's tool parser knows no form of calls that a "
            f"guide can demand; those that do are {names}; send auto"
        )  # fmt: skip
    return refused(
        "tools", "tools and a guide for the answer are both given, but this server's tool parser "
        f"knows no form of calls for a guide; those that do are {names}; send one of them"
    )  # fmt: skip


def _reasoning(reasoning: ReasoningFormat, prompt_end: str) -> Format | None:
    """The reasoning before an answer: its rest if the prompt has begun it, None if it has ended it.

    Otherwise it may be absent.
    """
    if not reasoning.pairs or any(ended(prompt_end, end) for _, end in reasoning.pairs):
        return None
    text = {"type": "any_text"}
    for begin, end in reasoning.pairs:
        if inside(prompt_end, begin, end):
            return _tag("", text, end + reasoning.after)
    whole = [_tag(begin, text, end + reasoning.after) for begin, end in reasoning.pairs]
    return _or([*whole, _NEWLINES])


def _json(schema: Any) -> Format:
    return {"type": "json_schema", "json_schema": schema}


def _tag(begin: str, content: Format, end: str = "") -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _or(elements: list[Format]) -> Format:
    return {"type": "or", "elements": elements} if len(elements) > 1 else elements[0]
