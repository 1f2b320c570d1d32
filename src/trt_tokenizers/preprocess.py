"""A request's text -> an engine request. No Triton here: bytes and arrays in, arrays out."""

from __future__ import annotations

import csv
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError, SettingsError, StoppingError
from trt_tokenizers.limits import check_length
from trt_tokenizers.settings import nearest, setting
from trt_tokenizers.streams import Carrier, ContextStore, StreamContext, key_of_request_id
from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import load as load_template
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create as create_tokenizer
from trt_tokenizers.words import TokenIds, to_array, tokenizations

logger = logging.getLogger(__name__)

#: Request parameters that Triton and its clients use themselves.
_TRANSPORT_PARAMETERS = (
    "binary_data_output", "classification", "headers", "id", "priority", "timeout",
    "sequence_id", "sequence_start", "sequence_end",
)  # fmt: skip


@dataclass(frozen=True)
class PreprocessingSettings(TokenizerSettings):
    """``parameters`` of the model preprocessing."""

    template: str = setting(
        "auto", "turns messages into a prompt: auto, none, or a template's name"
    )
    add_special_tokens: bool = setting(True, "let the tokenizer add BOS (and EOS) to text_input")
    skip_special_tokens: bool = setting(True, "leave special tokens out of the text, by default")
    max_seq_len: int = setting(0, "tokens of prompt and answer together; 0: the engine checks")
    default_max_tokens: int = setting(512, "max_tokens of requests that do not say")
    stream_key: str = setting("auto", "how keys travel: tensor, sequence_id, request_id or auto")
    word_lists: str = setting(
        "list", "list: each string is a word; csv: one string with commas, as before 0.11"
    )

    exclude_input_in_output: bool = setting(
        True, "leave the prompt out of answers that do not stream, where a request does not say"
    )
    vocab_size: int = setting(
        0, "of the engine, for embedding_bias_words; 0: as config.json in tokenizer_dir says"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_seq_len < 0:
            raise SettingsError(f"max_seq_len is {self.max_seq_len}; it must be 0 or more")
        if self.word_lists not in ("list", "csv"):
            raise SettingsError(f"word_lists is {self.word_lists!r}; it must be list or csv")
        if self.default_max_tokens < 1:
            raise SettingsError(
                f"default_max_tokens is {self.default_max_tokens}; it must be at least 1"
            )


@dataclass(slots=True)
class TextRequest:
    """What one request asks of preprocessing, one entry per row where there are several.

    None stands for an input that the client did not send. Names are those of the ensemble.
    """

    rows: int = 1
    text_input: Sequence[bytes] | None = None
    messages: Sequence[bytes] | None = None
    max_tokens: Sequence[int] | None = None
    stop_words: Sequence[Sequence[bytes]] | None = None
    bad_words: Sequence[Sequence[bytes]] | None = None
    end_id: Sequence[int] | None = None
    pad_id: Sequence[int] | None = None
    exclude_input_in_output: Sequence[bool] | None = None
    skip_special_tokens: Sequence[bool] | None = None
    include_stop_str_in_output: Sequence[bool] | None = None
    stream: Sequence[bool] | None = None
    min_tokens: Sequence[int] | None = None
    request_id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class EngineRequest:
    """Arrays for the engine, named as preprocessing's outputs.

    Attributes:
        arrays: INPUT_ID int32 [rows, n], padded on the right; REQUEST_INPUT_LEN,
            REQUEST_OUTPUT_LEN, OUT_END_ID (-1: none), OUT_PAD_ID int32 [rows, 1];
            OUT_EXCLUDE_INPUT_IN_OUTPUT bool [rows, 1], for an engine that knows it; STOP_WORDS_IDS,
            BAD_WORDS_IDS int32 [rows, 2, n]; STREAM_KEY int64 [rows, 1]. Every tensor costs on its
            way, so those that say nothing are left out.
        sequence_id: the key, where Triton is to carry it.
    """

    arrays: dict[str, npt.NDArray[Any]]
    sequence_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    max_tokens: int
    end_id: int
    pad_id: int
    stop_words: list[TokenIds]
    bad_words: list[TokenIds]
    context: StreamContext


class Preprocessor:
    """Made once per model instance; `process` per request."""

    def __init__(
        self,
        settings: PreprocessingSettings,
        contexts: ContextStore,
        *,
        response_parameters: bool = False,
    ) -> None:
        """
        Args:
            settings: from config.pbtxt.
            contexts: where postprocessing will look.
            response_parameters: whether the server's Python backend has them.

        Raises:
            SettingsError, TokenizerError, TemplateError: the server cannot serve with these.
        """
        self._settings = settings
        self._carrier = Carrier.choose(settings.stream_key, response_parameters=response_parameters)
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self._template = load_template(settings.template, self.tokenizer.chat_template)
        logger.info(
            "tokenizer %s of %s: BOS %s, EOS %s, PAD %s; template %s; stream keys travel by %s",
            settings.tokenizer_type,
            settings.tokenizer_dir,
            self.tokenizer.bos_id if self.tokenizer.adds_bos else "not added",
            list(self.tokenizer.eos_ids) or "none",
            self.tokenizer.pad_id,
            self._template.name if self._template else "none",
            self._carrier.value,
        )

    def process(self, request: TextRequest) -> EngineRequest:
        """
        Raises:
            RequestError: the first thing that is wrong with the request.
            StoppingError: no new requests are taken.
        """
        arrived = time.monotonic()
        if self._contexts.draining:
            raise StoppingError("the server is stopping and takes no new requests; ask again later")
        self._check_parameters(request.parameters)
        rows = [self._row(request, at, arrived) for at in range(request.rows)]
        self._contexts.sweep()
        longest = max(len(row.ids) for row in rows)
        input_ids = np.empty((len(rows), longest), dtype=np.int32)
        for at, row in enumerate(rows):
            input_ids[at, : len(row.ids)] = row.ids
            input_ids[at, len(row.ids) :] = row.pad_id
        made = EngineRequest(
            {
                "INPUT_ID": input_ids,
                "REQUEST_OUTPUT_LEN": _column([row.max_tokens for row in rows]),
                "OUT_END_ID": _column([row.end_id for row in rows]),
            }
        )
        if any(row.stop_words for row in rows):
            made.arrays["STOP_WORDS_IDS"] = to_array([row.stop_words for row in rows])
        if any(row.bad_words for row in rows):
            made.arrays["BAD_WORDS_IDS"] = to_array([row.bad_words for row in rows])
        # The C++ backend wants these always; a Python engine has no use for them in one row.
        if len(rows) > 1 or self._carrier is not Carrier.TENSOR:
            made.arrays["REQUEST_INPUT_LEN"] = _column([len(row.ids) for row in rows])
            made.arrays["OUT_PAD_ID"] = _column([row.pad_id for row in rows])
        self._leave(request, [row.context for row in rows], made)
        return made

    def _leave(
        self, request: TextRequest, contexts: list[StreamContext], made: EngineRequest
    ) -> None:
        """Leave the rows' contexts for postprocessing, under keys that will reach it."""
        if self._carrier is Carrier.TENSOR:
            keys = [[self._contexts.put(context)] for context in contexts]
            made.arrays["STREAM_KEY"] = np.array(keys, dtype=np.int64)
        elif self._carrier is Carrier.SEQUENCE_ID:
            made.sequence_id = self._contexts.mint()
            self._contexts.put_under(made.sequence_id, contexts)
        elif (key := key_of_request_id(request.request_id)) is not None:
            self._contexts.put_under(key, contexts)
        if self._carrier is not Carrier.TENSOR:
            # Whoever has the context puts the prompt in front; without one only the engine can.
            keyed = self._carrier is Carrier.SEQUENCE_ID or bool(request.request_id)
            exclude = [[keyed or not context.echo] for context in contexts]
            made.arrays["OUT_EXCLUDE_INPUT_IN_OUTPUT"] = np.array(exclude)

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        for name in parameters:
            if name not in _TRANSPORT_PARAMETERS and not name.startswith("triton_"):
                raise RequestError(
                    f"unknown parameter {name!r}{nearest(name, _KNOWN_INPUTS)}; "
                    "this server's ensemble has no such input, leave it out"
                )

    def _row(self, request: TextRequest, at: int, arrived: float) -> _Row:
        settings, tokenizer = self._settings, self.tokenizer
        ids = self._prompt_ids(request, at)
        max_tokens = _at(request.max_tokens, at, None)
        if max_tokens is None:
            room = settings.max_seq_len - len(ids) if settings.max_seq_len else 2**31 - 1
            max_tokens = max(1, min(settings.default_max_tokens, room))
        check_length(len(ids), max_tokens, settings.max_seq_len)

        end_id = _at(request.end_id, at, None)
        if end_id is None:
            end_ids = tokenizer.eos_ids
        elif end_id < 0:  # the client wants no end
            end_ids = ()
        else:  # the client's id ends the answer, and so do the model's other ones
            end_ids = (end_id, *(i for i in tokenizer.eos_ids if i != end_id))
        stop_strings = self._words(request.stop_words, at, "stop_words")
        # The engine knows one end id; the others reach it as stop words of one token.
        stop_words: list[TokenIds] = [(i,) for i in end_ids[1:]]
        if stop_strings:
            stop_words += tokenizations(tokenizer, stop_strings, "stop_words")
        skip_special = _at(request.skip_special_tokens, at, settings.skip_special_tokens)
        stream = _at(request.stream, at, False)
        echo = ""
        if not _at(request.exclude_input_in_output, at, settings.exclude_input_in_output or stream):
            echo = tokenizer.decode(ids, skip_special_tokens=skip_special)
        return _Row(
            ids=ids,
            max_tokens=max_tokens,
            end_id=end_ids[0] if end_ids else -1,
            pad_id=_at(request.pad_id, at, tokenizer.pad_id),
            stop_words=stop_words,
            bad_words=tokenizations(
                tokenizer, self._words(request.bad_words, at, "bad_words"), "bad_words"
            ),
            context=StreamContext(
                num_input_tokens=len(ids),
                end_ids=end_ids,
                stop_strings=stop_strings,
                include_stop=_at(request.include_stop_str_in_output, at, False),
                skip_special_tokens=skip_special,
                echo=echo,
                arrived=arrived,
                continues=bool(echo) or not _at(request.messages, at, b""),
                stream=stream,
                max_tokens=max_tokens,
                min_tokens=_at(request.min_tokens, at, 1),
                stop_ids=tuple(stop_words),
            ),
        )

    def _words(
        self, values: Sequence[Sequence[bytes]] | None, at: int, name: str
    ) -> tuple[str, ...]:
        """The words of row *at*; empty ones are what clients send for none."""
        if values is None:
            return ()
        words = [_text(value, name) for value in values[at]]
        if self._settings.word_lists == "csv":
            words = [word for line in words for word in next(csv.reader([line]), [])]
        return tuple(word for word in words if word)

    def _prompt_ids(self, request: TextRequest, at: int) -> list[int]:
        text = _text(_at(request.text_input, at, b""), "text_input")
        messages = _text(_at(request.messages, at, b""), "messages")
        if text and messages:
            raise RequestError("text_input and messages are both given; send one of them")
        if messages:
            if self._template is None:
                raise RequestError(
                    "this server has no chat template; send text_input instead of messages, or "
                    "set the parameter 'template' of the model preprocessing"
                )
            prompt = self._template.render(parse_messages(messages), self.tokenizer.special_tokens)
            # The template wrote the special tokens out; only a missing BOS may have to be added.
            return self.tokenizer.encode_prompt(prompt, add_special_tokens=False, ensure_bos=True)
        if not text:
            raise RequestError("the prompt is empty; send text_input or messages with some text")
        return self.tokenizer.encode_prompt(
            text,
            add_special_tokens=self._settings.add_special_tokens,
            ensure_bos=self._settings.add_special_tokens,
        )


_NO_INPUTS = {"rows", "request_id", "parameters"}
_KNOWN_INPUTS = [
    *(f.name for f in dataclasses.fields(TextRequest) if f.name not in _NO_INPUTS),
    "temperature", "top_k", "top_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "min_length", "seed", "random_seed",
    "return_log_probs", "beam_width", "num_return_sequences", "length_penalty",
    "return_perf_metrics", "guided_decoding_guide_type", "guided_decoding_guide", "lora_name",
]  # fmt: skip


def _at(values: Sequence[Any] | None, at: int, default: Any) -> Any:
    return default if values is None else values[at]


def _column(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, 1)


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not valid UTF-8: {error.reason} at byte {error.start}; send UTF-8"
        ) from None
