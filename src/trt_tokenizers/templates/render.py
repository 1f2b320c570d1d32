"""Rendering of chat templates: messages -> prompt, in Jinja's sandbox."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.settings import nearest
from trt_tokenizers.templates.forms import Forms
from trt_tokenizers.templates.messages import PUBLISHED_ROLES, ROLES, Message
from trt_tokenizers.templates.sandbox import Refused, make_environment

_MAX_SOURCE = 1 << 16  # characters of a template
_MAX_PROMPT = 1 << 24  # characters

#: Marks the end of the text that the model continues. Searching for the message's own text instead
#: could find a copy that the template writes after the message.
_CONTINUE_HERE = "TRT_TOKENIZERS_CONTINUE_HERE "
#: Variables that have their own inputs.
_RESERVED = ("messages", "tools", "conversation")

_ENVIRONMENT = make_environment()


class ChatTemplate:
    """A compiled template; threads may share it.

    Attributes:
        name: for errors and logs.
        source: Jinja.
        reads: which of ``tools`` and ``tool_calls`` the template mentions.
    """

    def __init__(self, name: str, source: str, *, any_role: bool = True, **defaults: Any) -> None:
        """Compile *source*, whose *defaults* a request's variables may replace.

        Without *any_role*, the roles are those of OpenAI's API that the template mentions.

        Raises:
            TemplateError: *source* is too long or not valid Jinja; names template and line.
        """
        self.name, self.source = name, source
        if len(source) > _MAX_SOURCE:
            raise TemplateError(
                f"template {name!r} has {len(source)} characters; the limit is {_MAX_SOURCE}"
            )
        try:
            tree = _ENVIRONMENT.parse(source)
            # Before the compiler, which folds constants.
            constants = {n.value for n in tree.find_all(nodes.Const) if type(n.value) is str}
            self._template = _ENVIRONMENT.from_string(tree, globals=defaults)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"template {name!r}, line {error.lineno}: {_printable(error.message)}; "
                "correct the template"
            ) from error
        except Exception as error:  # the compiler computes constants, which may raise anything
            raise TemplateError(
                f"template {name!r} does not compile: {_printable(error)}; correct the template"
            ) from error
        words = {node.name for node in tree.find_all(nodes.Name)}
        words |= {node.attr for node in tree.find_all(nodes.Getattr)} | constants
        self.reads = words & {"tools", "tool_calls"}
        self._any_role = any_role
        self._roles = constants if any_role else (constants.intersection(ROLES) or {*ROLES})
        tests = {node.name for node in tree.find_all(nodes.Test)}
        self._forms = Forms(keeps_text="string" in tests)

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        guard: Callable[[Any], Any] = lambda value: value,
    ) -> str:
        """The prompt for *messages*, ending where the assistant's answer begins.

        Args:
            messages: checked by `parse_messages`.
            special_tokens: role ("bos_token", …) -> text.
            tools: JSON schemas of the functions that the model may call.
            arguments: further variables (``enable_thinking``, …). ``add_generation_prompt`` false
                omits the beginning of the answer; ``continue_final_message`` true ends the prompt
                inside the last message, and the model continues it.
            guard: applied to all values of the request, in the form that the template reads.

        Raises:
            RequestError: the template refuses the conversation, fails on it, or does not support
                the arguments.
        """
        variables = {"add_generation_prompt": True, **(arguments or {})}
        for name in _RESERVED:
            if name in variables:
                raise RequestError(f"chat_template_kwargs has {name!r}; send it as its own input")
        continues = variables.pop("continue_final_message", False)
        if continues and (arguments or {}).get("add_generation_prompt"):
            raise RequestError(
                "chat_template_kwargs sets add_generation_prompt and continue_final_message; "
                "send one of them"
            )
        content = ""
        if continues:
            variables["add_generation_prompt"] = False
            content, marked = _mark_end(messages[-1].get("content") or "")
            messages = [*messages[:-1], {**messages[-1], "content": marked}]
        if tools and "tools" not in self.reads:
            raise self._unsupported("tools")
        # transformers always passes documents, so templates compare it with none.
        variables = {"documents": None, **special_tokens, **guard(variables), "tools": guard(tools)}
        prompt = self._render_messages(messages, variables, guard)
        return _cut_at_mark(prompt, guard(content), self.name) if continues else prompt

    def _render_messages(
        self,
        messages: Sequence[Message],
        variables: dict[str, Any],
        guard: Callable[[Any], Any],
    ) -> str:
        """The prompt of *messages*; RequestError for a role that the template would drop."""
        if self._forms.fits(messages):
            return self._render({**variables, "messages": guard(messages)})
        if "tool_calls" not in self.reads and any(m.get("tool_calls") for m in messages):
            raise self._unsupported("tool_calls")
        roles = {m["role"]: at for at, m in reversed([*enumerate(messages)])}
        unusual = {role: at for role, at in roles.items() if role not in {*ROLES, *self._roles}}
        allowed = PUBLISHED_ROLES if self._any_role else ()
        if unknown := {role: at for role, at in unusual.items() if role not in allowed}:
            raise self._unknown_role(unknown)
        fitting = self._forms.fit(
            messages, lambda probed: self._render({**variables, "messages": probed})
        )
        prompt = self._render({**variables, "messages": guard(fitting)})
        dropped = {role: at for role, at in unusual.items() if not self._forms.shows(role)}
        if dropped:
            raise self._unknown_role(dropped)
        return prompt

    def _unknown_role(self, unknown: Mapping[str, int]) -> RequestError:
        role, at = next(iter(unknown.items()))
        known = [each for each in ROLES if each in self._roles] or ROLES
        return RequestError(
            f"messages[{at}] has the role {role!r}; template {self.name!r} knows "
            f"{', '.join(known)}: send one of these"
        )

    def _unsupported(self, what: str) -> RequestError:
        """The error for *what*, which this template does not read and would drop silently."""
        return RequestError(
            f"template {self.name!r} does not support {what}; leave them out, or set the parameter "
            f"'template' of the model preprocessing to one that does: "
            f"{', '.join(_names_reading(what))}, or auto if the model's own does"
        )

    def _render(self, variables: dict[str, Any]) -> str:
        try:
            prompt = self._template.render(variables)
            if not prompt.isascii():
                prompt.encode()  # a template can make a lone surrogate, which no tokenizer accepts
        except Refused as error:
            raise RequestError(
                f"template {self.name!r} refuses these messages: {_printable(error)}"
            ) from None
        except Exception as error:  # a template is a program, which may raise anything
            raise RequestError(
                f"template {self.name!r} fails on these messages: {_printable(error)}; "
                "send other messages, or have the server's template corrected"
            ) from None
        if len(prompt) > _MAX_PROMPT:
            raise RequestError(
                f"template {self.name!r} makes a prompt of {len(prompt)} characters; the limit is "
                f"{_MAX_PROMPT}: send shorter messages"
            )
        return prompt


def _printable(error: Exception | str | None) -> str:
    """At most 500 characters of the error's message, as valid UTF-8."""
    text = str(error)[:500] or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()


def _mark_end(content: Any) -> tuple[str, Any]:
    """The text at the end of *content*, text or parts, and *content* with the mark after it."""
    if isinstance(content, str):
        return content, content + _CONTINUE_HERE
    text = content[-1]["text"]
    return text, [*content[:-1], {**content[-1], "text": text + _CONTINUE_HERE}]


def _cut_at_mark(prompt: str, content: str, name: str) -> str:
    """*prompt* up to `_CONTINUE_HERE`, which follows the last message's *content*.

    A template that trims the mark would have trimmed the content, so the prompt is trimmed too.
    """
    at = prompt.rfind(_CONTINUE_HERE.strip())
    if at < 0 or not content.strip() or content.strip() not in prompt:
        raise RequestError(
            f"continue_final_message: template {name!r} changes the last message, or it is empty; "
            "send another one, or leave continue_final_message out"
        )
    return prompt[:at] if prompt.startswith(_CONTINUE_HERE, at) else prompt[:at].rstrip()


#: Name -> the named template behind it, and variables. Tekken writes no space after a control
#: token.
_VARIANTS = {
    "mistral-v3-tekken": ("mistral-v3", {"gap": ""}),
    "mistral-v7-tekken": ("mistral-v7", {"gap": ""}),
}


def named_templates() -> list[str]:
    """Names that `load` knows, except ``auto`` and ``none``."""
    folder = files("trt_tokenizers.templates") / "named"
    found = (entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja"))
    return sorted([*(name.removesuffix(".jinja") for name in found), *_VARIANTS])


@functools.lru_cache
def _names_reading(what: str) -> list[str]:
    return [name for name in named_templates() if what in _named(name).reads]


def _named(name: str) -> ChatTemplate:
    file, defaults = _VARIANTS.get(name, (name, {}))
    path = files("trt_tokenizers.templates") / "named" / f"{file}.jinja"
    return ChatTemplate(name, path.read_text(encoding="utf-8"), any_role=False, **defaults)


class OwnTemplates:
    """The templates of a model that has several, selected as in transformers.

    Requests with tools get ``tool_use`` if it exists; all others get ``default``.

    Attributes:
        name: for errors and logs.
        sources: name -> Jinja. Only ``default`` and ``tool_use`` are compiled in advance: the model
            may work even if another template does not compile.
    """

    def __init__(self, name: str, sources: Mapping[str, str]) -> None:
        """Compile ``default`` and ``tool_use``; TemplateError if one is not valid Jinja."""
        self.name = name
        self.sources = sources
        self._compiled: dict[str, ChatTemplate] = {}
        for key in ("default", "tool_use"):
            if key in sources:
                self._compile(key)

    def named(self, name: str) -> ChatTemplate:
        """The template *name* of `sources`. RequestError if it is not valid Jinja."""
        try:
            return self._compiled.get(name) or self._compile(name)
        except TemplateError as error:
            raise RequestError(str(error)) from None

    def _compile(self, key: str) -> ChatTemplate:
        name = self.name if key == "default" else f"{self.name} ({key})"
        template = self._compiled[key] = ChatTemplate(name, self.sources[key])
        return template

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> str:
        """`ChatTemplate.render` of the selected template; RequestError if none fits."""
        template = self._compiled.get("tool_use") if tools else None
        template = template or self._compiled.get("default")
        if template is None:
            raise RequestError(
                f"the model has the templates {', '.join(sorted(self.sources))} and no default; "
                "name one as chat_template in chat_template_kwargs, or set the parameter "
                "'template' of the model preprocessing"
            )
        return template.render(messages, special_tokens, tools=tools, **more)


def load(
    name: str, chat_template: str | Mapping[str, str] | None
) -> ChatTemplate | OwnTemplates | None:
    """Load the template that the setting ``template`` names.

    Args:
        name: a named template; ``auto`` for the tokenizer's own; ``none`` for no template; the
            path of a Jinja file; or Jinja itself, recognized by ``{{`` or ``{%``.
        chat_template: the tokenizer's own template, or several by name, if it has any.

    Returns:
        None for ``none``, and for ``auto`` if the tokenizer has no template.

    Raises:
        TemplateError: the name is unknown, or the template does not compile.
    """
    if name == "none":
        return None
    if name == "auto":
        if isinstance(chat_template, Mapping):
            return OwnTemplates("auto", chat_template)
        return ChatTemplate("auto", chat_template) if chat_template else None
    if "{{" in name or "{%" in name:
        return ChatTemplate("inline", name)
    known = named_templates()
    if name in known:
        return _named(name)
    if "/" in name or name.endswith((".jinja", ".j2")):
        try:
            return ChatTemplate(name, Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateError(
                f"template file {name} cannot be read: {error}; correct the path"
            ) from error
    raise TemplateError(
        f"unknown template {name!r}{nearest(name, known)}; valid are: "
        f"auto, none, {', '.join(known)}, the path of a Jinja file, or Jinja itself"
    )
