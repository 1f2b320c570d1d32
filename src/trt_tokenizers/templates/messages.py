"""A request's ``messages``, ``tools`` and ``chat_template_kwargs``: JSON text -> checked values."""

from __future__ import annotations

import gc
import json
import re
from typing import Any

from trt_tokenizers.errors import RequestError

Message = dict[str, Any]

MAX_JSON = 5_000_000  #: characters of one JSON text
MAX_MESSAGES = 100_000
_MAX_ROLE = 64  # characters
#: Roles of published models that a template may print without a name for them: it prints any role.
#: Others are refused if the template does not name them: they are more often a mistake.
PUBLISHED_ROLES = (
    "context", "control", "document", "documents", "environment", "function", "ipython", "model",
    "observation",
)  # fmt: skip
#: The roles of OpenAI's API.
ROLES = ("system", "developer", "user", "assistant", "tool")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_messages(text: str) -> list[Message]:
    """Check the JSON list of ``{"role": …, "content": …}`` objects.

    Content is a string or a list of ``{"type": "text", "text": …}`` parts. Other keys (``name``,
    ``reasoning_content``, …) reach the template unchanged.

    Raises:
        RequestError: names the index of the message and says what it should be.
    """
    data = _json(text, "messages", "the list of messages")
    if not isinstance(data, list) or not data:
        raise RequestError(
            'messages must be a JSON list with at least one {"role": …, "content": …} object'
        )
    if len(data) > MAX_MESSAGES:
        raise RequestError(
            f"messages has {len(data)} messages; the limit is {MAX_MESSAGES}: send fewer"
        )
    return [_check_message(message, at) for at, message in enumerate(data)]


def parse_tools(text: str) -> list[dict[str, Any]] | None:
    """Check the JSON list of tools, each an object with ``function`` or with ``name``."""
    data = _json(text, "tools", "the list of tools")
    if not isinstance(data, list):
        raise RequestError("tools must be a JSON list of objects")
    for at, tool in enumerate(data):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(
                f'tools[{at}] must be {{"type": "function", "function": {{"name": …, …}}}}'
            )
    return data or None


def parse_template_arguments(text: str) -> dict[str, Any]:
    """Check ``chat_template_kwargs``, a JSON object."""
    data = _json(text, "chat_template_kwargs", "an object")
    if not isinstance(data, dict):
        raise RequestError(
            'chat_template_kwargs must be a JSON object, such as {"enable_thinking": …}'
        )
    return data


def _json(text: str, name: str, what: str) -> Any:
    if len(text) > MAX_JSON:
        raise RequestError(
            f"{name} has {len(text)} characters; the limit is {MAX_JSON}: send less text"
        )
    try:
        data = loads(text)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{name} contains half of a surrogate pair; send whole characters"
        ) from None
    except ValueError as error:
        raise RequestError(f"{name} is not JSON: {error}; send {what} as JSON text") from None
    except RecursionError:
        raise RequestError(f"{name} is nested too deeply; send {what} with less nesting") from None
    return data


def loads(text: str) -> Any:
    """`json.loads`."""
    # JSON has no reference cycles. The collector would scan the growing result again and again: a
    # million small lists take ten times as long with it.
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(text)
    finally:
        if collects:
            gc.enable()


def _check_message(given: Any, at: int) -> Message:
    """*given* without keys that are null, as transformers gives it to a template."""
    if not isinstance(given, dict):
        raise RequestError(f'messages[{at}] must be an object with "role" and "content"')
    message: Message = given
    if None in given.values():
        message = {key: value for key, value in given.items() if value is not None}
    if "role" not in message:
        raise RequestError(f"messages[{at}] has no role; it must be one of {', '.join(ROLES)}")
    role = message["role"]
    if not isinstance(role, str) or not 0 < len(role) <= _MAX_ROLE:
        shown = repr(role[:40]) if isinstance(role, str) else f"of type {type(role).__name__}"
        raise RequestError(
            f"messages[{at}] has the role {shown}; it must be one of {', '.join(ROLES)}"
        )
    calls = message.get("tool_calls")
    if role != "assistant" and calls:
        raise RequestError(
            f"messages[{at}] has tool_calls and the role {role!r}; only the assistant calls tools: "
            "move them to an assistant message, or leave them out"
        )
    if role != "assistant":
        # Some clients send an empty tool_calls; templates test whether the key exists.
        message.pop("tool_calls", None)
    elif calls is not None and not (isinstance(calls, list) and all(map(_is_call, calls))):
        raise RequestError(
            f"messages[{at}].tool_calls must be a list of "
            '{"type": "function", "function": {"name": …, "arguments": …}}'
        )
    content = message.get("content")
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"messages[{at}].content[{number}]")
    elif not (isinstance(content, str) or (content is None and role == "assistant")):
        raise RequestError(f"messages[{at}] has no content; it must be a string or a list of parts")
    return message


def _is_call(call: Any) -> bool:
    function = call.get("function", call) if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _check_part(part: Any, where: str) -> None:
    typed = isinstance(part, dict) and part.get("type") == "text"
    if not typed or not isinstance(part.get("text"), str):
        raise RequestError(
            f'{where} must be {{"type": "text", "text": …}}; other parts are not supported'
        )
