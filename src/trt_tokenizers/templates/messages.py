"""The client's ``messages``: JSON text -> checked messages."""

from __future__ import annotations

import gc
import json
from typing import Any

from trt_tokenizers.errors import RequestError

Message = dict[str, Any]

#: Characters of a request's JSON and messages in it: more would take longer than a second.
MAX_JSON = 5_000_000
MAX_MESSAGES = 50_000
ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_messages(text: str) -> list[Message]:
    """Check the JSON list of ``{"role": …, "content": …}`` objects.

    Content may be a string or a list of ``{"type": "text", "text": …}`` parts, which are joined.
    Other keys (``name``, ``tool_calls``, …) are handed to the template as they are.

    Raises:
        RequestError: names the message by its place and says what it should be.
    """
    data = _json(text, "messages", "the list of messages")
    if not isinstance(data, list) or not data:
        raise RequestError(
            'messages must be a JSON list with at least one {"role": …, "content": …} object in it'
        )
    if len(data) > MAX_MESSAGES:
        raise RequestError(f"messages has {len(data)} of them; at most {MAX_MESSAGES} are served")
    return [_checked(message, f"messages[{at}]") for at, message in enumerate(data)]


def parse_tools(text: str) -> list[dict[str, Any]] | None:
    """Check the JSON list of tools, each an object with ``function`` or a ``name`` of its own.

    Raises:
        RequestError: says which tool is wrong.
    """
    data = _json(text, "tools", "the list of tools")
    if not isinstance(data, list):
        raise RequestError("tools must be a JSON list of objects")
    for at, tool in enumerate(data):
        described = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(described, dict) or not isinstance(described.get("name"), str):
            raise RequestError(
                f'tools[{at}] must be {{"type": "function", "function": {{"name": …, …}}}}'
            )
    return data or None


def parse_template_arguments(text: str) -> dict[str, Any]:
    """Check ``chat_template_kwargs``, a JSON object.

    Raises:
        RequestError: it is none.
    """
    data = _json(text, "chat_template_kwargs", "an object")
    if not isinstance(data, dict):
        raise RequestError('chat_template_kwargs must be a JSON object, as {"enable_thinking": …}')
    return data


def _json(text: str, name: str, what: str) -> Any:
    if len(text) > MAX_JSON:
        raise RequestError(f"{name} has {len(text)} characters; at most {MAX_JSON} are served")
    try:
        data = _loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{name} holds half of a surrogate pair; send whole characters"
        ) from None
    except ValueError as error:
        raise RequestError(f"{name} is not JSON: {error}; send {what} as JSON text") from None
    except RecursionError:
        raise RequestError(f"{name} is nested too deeply; send {what} less nested") from None
    return data


def _loads(text: str) -> Any:
    # The collector looks through what is being built again and again, for nothing: JSON has no
    # references. For a million small lists that takes ten times as long as all else.
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(text)
    finally:
        if collects:
            gc.enable()


def _checked(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise RequestError(f'{where} must be an object with "role" and "content"')
    message: Message = given
    if "role" not in message:
        raise RequestError(f"{where} has no role; it must be one of {', '.join(ROLES)}")
    role = message["role"]
    if role not in ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else f"that is a {type(role).__name__}"
        raise RequestError(f"{where} has the role {shown}; it must be one of {', '.join(ROLES)}")
    calls = message.get("tool_calls")
    if role != "assistant" and calls:
        raise RequestError(
            f"{where} has tool_calls and the role {role!r}; only the assistant calls tools: send "
            "them in a message of its own, or leave them out"
        )
    if "tool_calls" in message and (calls is None or role != "assistant"):
        # Clients send the empty key along; templates ask whether it is there.
        message = {key: value for key, value in message.items() if key != "tool_calls"}
    content = message.get("content")
    if content is None and role == "assistant" and message.get("tool_calls"):
        return message
    if isinstance(content, list):
        content = "".join(_part(part, f"{where}.content[{at}]") for at, part in enumerate(content))
    if not isinstance(content, str):
        raise RequestError(f"{where} has no content; it must be a string")
    return {**message, "content": content}


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise RequestError(f'{where} must be {{"type": "text", "text": …}}; nothing else is served')
    return text
