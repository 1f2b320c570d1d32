"""Text or messages -> prompt -> token ids, for all requests of one execute() together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from trt_tokenizers.errors import RequestError, SettingsError, TemplateError
from trt_tokenizers.processing.request import TextRequest, check_parameters
from trt_tokenizers.settings import setting
from trt_tokenizers.templates.messages import (
    parse_messages,
    parse_template_arguments,
    parse_tools,
)
from trt_tokenizers.templates.render import ChatTemplate, OwnTemplates, load
from trt_tokenizers.tokenizers.base import GUARD, Tokenizer, TokenizerSettings


@dataclass(frozen=True)
class PromptSettings(TokenizerSettings):
    """The parameters in config.pbtxt that concern prompts."""

    template: str = setting(
        "auto", "chat template: auto, none, a template's name, a Jinja file or Jinja itself"
    )
    allow_request_templates: bool = setting(
        False, "accept templates from requests: chat_template in chat_template_kwargs"
    )
    add_special_tokens: bool = setting(True, "let the tokenizer add BOS (and EOS) to text_input")
    truncate_prompt_tokens: int = setting(
        0, "truncate longer prompts to this many tokens; 0: refuse"
    )
    truncation_side: str = setting("", "side that is cut: left or right; empty: from the files")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncate_prompt_tokens < 0:
            raise SettingsError(
                f"truncate_prompt_tokens is {self.truncate_prompt_tokens}; it must be 0 or more"
            )
        if self.truncation_side not in ("", "left", "right"):
            raise SettingsError(
                f"truncation_side is {self.truncation_side!r}; it must be left or right"
            )


class Prompt(NamedTuple):
    """The prompt of one row, before encoding.

    Attributes:
        text: the prompt.
        rendered: whether a template rendered it; its special tokens are in the text then.
        continues: whether the answer continues *text*, so that its first space is kept.
    """

    text: str
    rendered: bool
    continues: bool


class PromptMaker:
    """Makes and encodes prompts; one per model instance.

    Attributes:
        template_name: name of the chat template, or "none".
    """

    def __init__(self, settings: PromptSettings, tokenizer: Tokenizer) -> None:
        """Load the chat template.

        Raises:
            TemplateError: the template is unknown or does not compile.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._template = load(settings.template, tokenizer.chat_template)
        self.template_name = self._template.name if self._template else "none"
        self._request_template = lru_cache(16)(lambda source: ChatTemplate("chat_template", source))
        self._own = self._template if isinstance(self._template, OwnTemplates) else None
        #: Jinja; for a model with several templates JSON: name -> Jinja; empty without a template.
        self.template_source = json.dumps(self._own.sources) if self._own else ""
        if isinstance(self._template, ChatTemplate):
            self.template_source = self._template.source
        side = settings.truncation_side or tokenizer.files.config.get("truncation_side")
        self._cut_left = side == "left"
        self._splits = bool(tokenizer.files.config.get("split_special_tokens"))

    def make(self, request: TextRequest) -> list[Prompt]:
        """The prompt of each row.

        Raises:
            RequestError: names the first error of the request.
        """
        check_parameters(request.parameters)
        return [self._prompt(request, row) for row in range(request.rows)]

    def _prompt(self, request: TextRequest, row: int) -> Prompt:
        text, messages, tools, arguments = (
            request.text(name, row)
            for name in ("text_input", "messages", "tools", "chat_template_kwargs")
        )
        if text and messages:
            raise RequestError("text_input and messages are both given; send one of them")
        if messages:
            return self._render(messages, tools, arguments)
        if tools or arguments:
            name = "tools" if tools else "chat_template_kwargs"
            raise RequestError(f"{name} is given without messages; send messages, or leave it out")
        if not text:
            raise RequestError("the prompt is empty; send text_input or messages with some text")
        return Prompt(self._guarded(text), rendered=False, continues=True)

    def _guarded(self, value: Any) -> Any:
        """*value*, whose control tokens stay text if tokenizer_config.json requires it."""
        return self._tokenizer.guarded(value) if self._splits else value

    def _render(self, messages: str, tools: str, arguments: str) -> Prompt:
        variables = parse_template_arguments(arguments) if arguments else {}
        render = self._renderer(variables.pop("chat_template", None))
        text = render(
            parse_messages(messages),
            self._tokenizer.special_tokens,
            tools=parse_tools(tools) if tools else None,
            arguments=variables,
            guard=self._guarded,
        )
        if self._splits:
            text = text.replace(json.dumps(GUARD)[1:-1], GUARD)  # of tojson(ensure_ascii=true)
        return Prompt(text, rendered=True, continues=bool(variables.get("continue_final_message")))

    def _renderer(self, template: object) -> Callable[..., str]:
        """The renderer of the request's *template*, a name or Jinja; None is the server's own."""
        if template is None:
            if self._template is None:
                raise RequestError(
                    "this server has no chat template; send text_input instead of messages, or "
                    "set the parameter 'template' of the model preprocessing"
                )
            return self._template.render
        names = sorted(self._own.sources) if self._own else []
        if self._own and template in names:
            return self._own.named(str(template)).render
        if not isinstance(template, str):
            raise RequestError("chat_template of chat_template_kwargs must be a string")
        if not self._settings.allow_request_templates:
            raise RequestError(
                "this server accepts no templates from requests; leave chat_template out"
                f"{', name one of ' + ', '.join(names) if names else ''}"
                ", or set allow_request_templates of the model preprocessing"
            )
        try:
            return self._request_template(template).render
        except TemplateError as error:
            raise RequestError(str(error)) from None

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids of each prompt. Prompts with and without a template are encoded in one batch each."""
        ids: dict[int, list[int]] = {}
        for rendered in (False, True):
            places = [at for at, prompt in enumerate(prompts) if prompt.rendered is rendered]
            if places:
                special = self._settings.add_special_tokens
                batch = self._tokenizer.encode_prompts(
                    [prompts[at].text for at in places],
                    # A template writes its special tokens; only a missing BOS is added.
                    add_special_tokens=special and not rendered,
                    ensure_bos=special or rendered,
                )
                ids.update(zip(places, batch, strict=True))
        return [self._truncate(ids[at], prompt.rendered) for at, prompt in enumerate(prompts)]

    def _truncate(self, ids: list[int], rendered: bool) -> list[int]:
        """Truncate *ids*, but keep BOS and an EOS that the tokenizer added."""
        limit = self._settings.truncate_prompt_tokens
        if not limit or len(ids) <= limit:
            return ids
        tokenizer = self._tokenizer
        # An EOS from a template ends a message, not the prompt.
        added = tokenizer.adds_eos and self._settings.add_special_tokens and not rendered
        tail = ids[-1:] if added and ids[-1] == tokenizer.eos_ids[0] else []
        head = ids[:1] if ids[0] == tokenizer.bos_id else []
        body = ids[len(head) : len(ids) - len(tail)]
        room = max(0, limit - len(head) - len(tail))
        kept = body[len(body) - room :] if self._cut_left else body[:room]
        return (head + kept + tail)[:limit]
