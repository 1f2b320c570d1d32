"""One renderer for every chat template: sandboxed Jinja with the helpers such templates expect."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.settings import nearest
from trt_tokenizers.templates import helpers
from trt_tokenizers.templates.bounds import MAX_CHARACTERS, refuse_over
from trt_tokenizers.templates.messages import Message
from trt_tokenizers.templates.sandbox import TemplateEnvironment

_MAX_SOURCE = 1 << 16  # characters of a template

#: Follows the text that the model goes on with, while it is rendered: what a template writes after
#: a message may hold the message's own words.
_HERE = "TRT_TOKENIZERS_GOES_ON_HERE "
#: Decided by the request itself, not by its template arguments.
_RESERVED = ("messages", "tools", "conversation")


class ChatTemplate:
    """A compiled template.

    Attributes:
        name: for errors and logs.
        reads: of ``tools`` and ``tool_calls`` those that the template speaks of.
    """

    def __init__(self, name: str, source: str, **defaults: Any) -> None:
        """
        Args:
            name: see above.
            source: Jinja.
            defaults: variables that a request's own may replace.

        Raises:
            TemplateError: *source* is not valid Jinja; names template and line.
        """
        self.name = name
        self._environment = TemplateEnvironment(helpers.GLOBALS, helpers.FILTERS)
        self._environment.globals.update(defaults)
        self._lock = threading.Lock()
        if len(source) > _MAX_SOURCE:
            raise TemplateError(
                f"template {name!r} has {len(source)} characters; at most {_MAX_SOURCE} are served"
            )
        try:
            tree = self._environment.parse(source)
            self._template = self._environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"template {name!r}, line {error.lineno}: {_shown(error.message)}; "
                "correct the template"
            ) from error
        except (
            jinja2.TemplateError,
            RecursionError,
            SyntaxError,
            ValueError,
            MemoryError,
        ) as error:
            raise TemplateError(
                f"template {name!r} does not compile: {_shown(error)}; correct the template"
            ) from error
        words = {
            word
            for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Const))
            for word in (getattr(node, at, None) for at in ("name", "attr", "value"))
            if isinstance(word, str)
        }
        self.reads = words & {"tools", "tool_calls"}

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for *messages*, ending where the assistant's answer begins.

        Args:
            messages: checked ones.
            special_tokens: role ("bos_token", …) -> text.
            tools: JSON schemas of what the model may call.
            arguments: further variables (``enable_thinking``, …). ``add_generation_prompt`` false
                leaves the beginning of the answer out; ``continue_final_message`` true ends the
                prompt inside the last message, which the model then goes on with.

        Raises:
            RequestError: the conversation or the arguments do not suit the template.
        """
        variables = {"add_generation_prompt": True, **(arguments or {})}
        for name in _RESERVED:
            if name in variables:
                raise RequestError(
                    f"chat_template_kwargs has {name!r}; send it as an input of its own"
                )
        continues = variables.pop("continue_final_message", False)
        if continues and (arguments or {}).get("add_generation_prompt"):
            raise RequestError(
                "chat_template_kwargs asks for add_generation_prompt and continue_final_message; "
                "send one of them"
            )
        content = messages[-1].get("content") or ""
        if continues:
            variables["add_generation_prompt"] = False
            messages = [*messages[:-1], {**messages[-1], "content": content + _HERE}]
        # A template that does not read them would drop them without a word.
        for what, given in (
            ("tools", bool(tools)),
            ("tool_calls", any(message.get("tool_calls") for message in messages)),
        ):
            if given and what not in self.reads:
                raise RequestError(
                    f"template {self.name!r} has no form for {what}; leave them out, or set the "
                    "parameter 'template' of the model preprocessing to one that has: "
                    f"{', '.join(_that_read(what))}, or auto if the model's own has"
                )
        prompt = self._rendered(
            # transformers always passes documents, so that templates compare it with none.
            {"documents": None, **special_tokens, **variables, "messages": messages, "tools": tools}
        )
        return _cut_after(prompt, content, self.name) if continues else prompt

    def _rendered(self, variables: dict[str, Any]) -> str:
        try:
            with self._lock:
                self._environment.start()
                prompt = "".join(self._template.generate(variables))
            refuse_over(len(prompt), MAX_CHARACTERS)
            prompt.encode()  # a template can make half a character, which no tokenizer takes
            return prompt
        except helpers.Refused as error:
            raise RequestError(
                f"template {self.name!r} refuses these messages: {_shown(error)}"
            ) from None
        except MemoryError:
            raise RequestError(
                f"template {self.name!r} takes too much memory; simplify it"
            ) from None
        except (jinja2.TemplateError, AttributeError, TypeError, ValueError, ArithmeticError,
                LookupError, RuntimeError, AssertionError) as error:  # fmt: skip
            raise RequestError(
                f"template {self.name!r} fails on these messages: {_shown(error)}; "
                "send other messages, or have the server's template corrected"
            ) from None


def _shown(error: Exception | str | None) -> str:
    """What *error* says, if it can be sent and read."""
    text = str(error)[:500] or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()


def _cut_after(prompt: str, content: str, name: str) -> str:
    """*prompt* up to `_HERE`, which stands after the last message's *content*; a template that
    trims `_HERE` would have trimmed the content."""
    at = prompt.rfind(_HERE.strip())
    if at < 0 or not content.strip() or content.strip() not in prompt:
        raise RequestError(
            f"continue_final_message: template {name!r} changes the last message, or it is empty; "
            "send another one, or leave continue_final_message out"
        )
    return prompt[:at] if prompt.startswith(_HERE, at) else prompt[:at].rstrip()


#: Name -> the named template that it is, with these variables: tekken has no space of its own
#: after a control token.
_VARIANTS = {
    "mistral-v3-tekken": ("mistral-v3", {"gap": ""}),
    "mistral-v7-tekken": ("mistral-v7", {"gap": ""}),
}


def named_templates() -> list[str]:
    """Names that `load` knows, beside ``auto`` and ``none``."""
    folder = files("trt_tokenizers.templates") / "named"
    found = (entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja"))
    return sorted([*(name.removesuffix(".jinja") for name in found), *_VARIANTS])


@functools.lru_cache
def _that_read(what: str) -> list[str]:
    return [name for name in named_templates() if what in _named(name).reads]


def _named(name: str) -> ChatTemplate:
    own, defaults = _VARIANTS.get(name, (name, {}))
    path = files("trt_tokenizers.templates") / "named" / f"{own}.jinja"
    return ChatTemplate(name, path.read_text(encoding="utf-8"), **defaults)


class OwnTemplates:
    """Several templates of a model's own, chosen from as in transformers: ``tool_use`` for requests
    with tools, if there is one, else ``default``.

    Attributes:
        name: for errors and logs.
        sources: name -> Jinja. A request may name any; only the two above are compiled, since the
            others may be none that can be served.
    """

    def __init__(self, name: str, sources: Mapping[str, str]) -> None:
        """
        Raises:
            TemplateError: one of the two is not valid Jinja; names template and line.
        """
        self.name = name
        self.sources = sources
        self._compiled: dict[str, ChatTemplate] = {}
        for own in ("default", "tool_use"):
            if own in sources:
                self._compile(own)

    def named(self, name: str) -> ChatTemplate:
        """One of `sources`, whatever tools there are.

        Raises:
            RequestError: it is not valid Jinja.
        """
        try:
            return self._compiled.get(name) or self._compile(name)
        except TemplateError as error:
            raise RequestError(str(error)) from None

    def _compile(self, own: str) -> ChatTemplate:
        name = self.name if own == "default" else f"{self.name} ({own})"
        made = self._compiled[own] = ChatTemplate(name, self.sources[own])
        return made

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """`ChatTemplate.render` of the one that suits.

        Raises:
            RequestError: none does, or the conversation does not suit it.
        """
        chosen = self._compiled.get("tool_use") if tools else None
        chosen = chosen or self._compiled.get("default")
        if chosen is None:
            raise RequestError(
                f"the model's own templates are {', '.join(sorted(self.sources))}, without a "
                "default; name one as chat_template in chat_template_kwargs, or set the parameter "
                "'template' of the model preprocessing"
            )
        return chosen.render(messages, special_tokens, tools=tools, arguments=arguments)


def _own(found: str | Mapping[str, str]) -> ChatTemplate | OwnTemplates:
    return ChatTemplate("auto", found) if isinstance(found, str) else OwnTemplates("auto", found)


def load(
    name: str, chat_template: str | Mapping[str, str] | None
) -> ChatTemplate | OwnTemplates | None:
    """The template called *name*.

    Args:
        name: a named template; ``auto`` for the tokenizer's own; ``none`` for no template; the
            path of a Jinja file; or Jinja itself, which has ``{{`` or ``{%`` in it.
        chat_template: the tokenizer's own, if it has one, or several by name.

    Returns:
        None for ``none``, and for ``auto`` where the tokenizer brought none.

    Raises:
        TemplateError: the name is unknown, or the template does not compile.
    """
    if name == "none":
        return None
    if name == "auto":
        return _own(chat_template) if chat_template else None
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
        f"unknown template {name!r}{nearest(name, known)}; known are: "
        f"auto, none, {', '.join(known)}, a Jinja file's path, or Jinja itself"
    )
