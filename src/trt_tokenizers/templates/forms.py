"""Gives every message the form that a template reads.

Clients send content as text or as parts, and a tool call's arguments as JSON text or as an object.
Many templates read one form only, and drop or misprint the other one without an error. Which form a
template reads is found by rendering the conversation with other texts, and remembered.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import contains, itemgetter
from typing import Any

from trt_tokenizers.errors import RequestError
from trt_tokenizers.templates.messages import Message, loads

#: What a message holds, beside its role -> the forms of it, the preferred one first. Parts and one
#: part differ: a template may print the first part only. "null" is a content without text: some
#: templates write calls only if the content is none, others would write "None".
_FORMS = {
    "text": ("text", "one part"),
    "part": ("parts", "text"),
    "parts": ("parts", "text", "one part"),
    "calls": ("object", "json"),
    "only calls": ("object", "json", "null object", "null json"),
}
_ENOUGH = 100  # messages to render probes with, if all kinds are among them
Kind = tuple[str, str]  # role, key of _FORMS

#: Nothing in a request equals the probes, so that no client decides what is found.
_PROBE = f"p{secrets.token_hex(8)}"


class Forms:
    """The forms that one template reads; threads may share it."""

    def __init__(self, *, keeps_text: bool) -> None:
        """*keeps_text*: the template also prints arguments that are not a JSON object."""
        self._keeps_text = keeps_text
        self._found: dict[Kind, str] = {}
        self._texts: set[str] = set()  # roles whose texts are printed as they are

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether all *messages* are texts that the template is known to print: the fast path."""
        try:
            types = set(map(type, map(itemgetter("content"), messages)))
        except KeyError:
            return False
        return (
            types == {str}
            and self._texts.issuperset(map(itemgetter("role"), messages))
            and not any(map(contains, messages, repeat("tool_calls")))
        )

    def fit(
        self, messages: Sequence[Message], render: Callable[[list[Message]], str]
    ) -> list[Message]:
        """*messages* in the forms that the template reads; those that fit are not copied.

        *render* renders messages; it may raise any exception.

        Raises:
            RequestError: the template needs an object, and arguments are not a JSON object.
        """
        forms = self._found
        kinds = list(dict.fromkeys(kind for message in messages for kind in _kinds(message)))
        if missing := [kind for kind in kinds if kind not in forms]:
            forms = self._find(kinds, missing, messages, render)
        return [
            self._formed(message, forms, f"messages[{at}]") for at, message in enumerate(messages)
        ]

    def shows(self, role: str) -> bool:
        """Whether the template prints contents of *role*; known after `fit`."""
        return any(kind[0] == role for kind in self._found)

    def _find(
        self,
        kinds: Sequence[Kind],
        missing: Sequence[Kind],
        messages: Sequence[Message],
        render: Callable[[list[Message]], str],
    ) -> dict[Kind, str]:
        """The form of each of *kinds*; those that the template prints are remembered."""
        probes = {kind: f"{_PROBE}{number}e" for number, kind in enumerate(kinds)}
        start = messages[:_ENOUGH]
        if {kind for message in start for kind in _kinds(message)}.issuperset(missing):
            messages = start
        probed = [_probed(message, probes) for message in messages]

        def printed(forms: dict[Kind, str]) -> set[Kind]:
            try:
                prompt = render([self._formed(message, forms, "") for message in probed])
            except Exception:  # the form or the conversation: the real messages raise it again
                return set()
            return {kind for kind in missing if _prints(prompt, kind[1], forms[kind], probes[kind])}

        best = {kind: self._found.get(kind, _FORMS[kind[1]][0]) for kind in kinds}
        found = printed(best)
        one = [{kind: form} for kind in missing for form in _FORMS[kind[1]][1:]]
        # A template may fail until several kinds have another form.
        texts = {kind: "one part" for kind in missing if kind[1] == "text"}
        every = {kind: _FORMS[kind[1]][1] for kind in missing}
        for change in (*one, texts, every, *one):
            if len(found) == len(missing):
                break
            if not found.issuperset(change):
                forms = {**best, **change}
                if len(others := printed(forms)) > len(found):
                    best, found = forms, others
        self._found.update((kind, best[kind]) for kind in found)
        self._texts = {kind[0] for kind, form in self._found.items() if kind[1] == form == "text"}
        return best

    def _formed(self, message: Message, forms: dict[Kind, str], where: str) -> Message:
        changed: Message = {}
        for kind in _kinds(message):
            form = forms[kind]
            if "calls" in kind[1]:
                changed["tool_calls"] = [
                    self._call(call, f"{where}.tool_calls[{at}]", as_json=form.endswith("json"))
                    for at, call in enumerate(message["tool_calls"])
                ]
                if kind[1] == "only calls":
                    changed["content"] = None if form.startswith("null") else ""
            elif form != ("text" if kind[1] == "text" else "parts"):
                content = message.get("content") or ""
                text, first = joined(content), {} if isinstance(content, str) else content[0]
                one = {"type": "text", **first, "text": text}
                changed["content"] = text if form == "text" else [one]
        if not changed and message.get("content") in (None, []):
            changed["content"] = ""
        return {**message, **changed} if changed else message

    def _call(self, call: dict[str, Any], where: str, *, as_json: bool) -> dict[str, Any]:
        """*call* with its arguments as an object, or as JSON text."""
        function = call.get("function", call)
        arguments = function.get("arguments")
        if arguments in (None, ""):  # of a function without parameters
            arguments = {}
        if as_json and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not as_json and isinstance(arguments, str):
            arguments = self._object(arguments, f"{where}.function.arguments")
        changed = {**function, "arguments": arguments}
        return {**call, "function": changed} if "function" in call else changed

    def _object(self, text: str, where: str) -> Any:
        try:
            value = loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        if self._keeps_text:
            return text
        raise RequestError(f"{where} is not a JSON object, which the template needs; send one")


def joined(content: str | Iterable[dict[str, Any]]) -> str:
    """The text of *content*: text, or parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _kinds(message: Message) -> list[Kind]:
    role, content = message["role"], message.get("content")
    if message.get("tool_calls"):
        if not content:
            return [(role, "only calls")]
        return [(role, _content_kind(content)), (role, "calls")]
    return [(role, _content_kind(content))]


def _content_kind(content: object) -> str:
    if content and isinstance(content, list):
        return "part" if len(content) == 1 else "parts"
    return "text"


def _probed(message: Message, probes: dict[Kind, str]) -> Message:
    """*message* with probes instead of its text and its arguments."""
    changed: Message = {}
    for kind in _kinds(message):
        probe = probes[kind]
        if "calls" in kind[1]:
            changed["tool_calls"] = calls = []
            for call in message["tool_calls"]:
                function = {**call.get("function", call), "arguments": {f"k{probe}": probe}}
                calls.append({**call, "function": function} if "function" in call else function)
        elif kind[1] == "text":
            changed["content"] = probe
        else:
            parts = [{**part, "text": probe} for part in message["content"]]
            if kind[1] == "parts":
                parts[-1]["text"] = f"{probe}z"
            changed["content"] = parts
    return {**message, **changed}


def _prints(prompt: str, what: str, form: str, probe: str) -> bool:
    """Whether *prompt* has *probe* as the model should see it, not as a part or inside quotes."""
    arguments = {f"k{probe}": probe}
    if form.endswith("object"):
        return probe in prompt and repr(arguments) not in prompt
    if form.endswith("json"):
        text = json.dumps(arguments)
        return text in prompt and repr(text) not in prompt
    raw = (f"'text': '{probe}", f'"text": "{probe}')
    if form != "text" and any(text in prompt for text in raw):
        return False
    # The last of several parts has a probe that differs.
    several = what == "parts"
    return probe in prompt.replace(f"{probe}z", "") and (not several or f"{probe}z" in prompt)
