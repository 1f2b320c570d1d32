"""A request's text -> an engine request. No Triton here: bytes and arrays in, arrays out."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import SettingsError, StoppingError
from trt_tokenizers.processing.optional_inputs import OptionalInputs
from trt_tokenizers.processing.prompts import Prompt, PromptMaker, PromptSettings
from trt_tokenizers.processing.request import TextRequest, at_row, text_of
from trt_tokenizers.processing.stop_words import embedding_bias, tokenizations
from trt_tokenizers.settings import setting
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.limits import check_characters, check_length, most_characters
from trt_tokenizers.streams.stream_key import StreamKeyTransport, key_of_request_id
from trt_tokenizers.streams.word_arrays import TokenIds, to_array
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.registry import create as create_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreprocessingSettings(PromptSettings):
    """``parameters`` of the model preprocessing."""

    skip_special_tokens: bool = setting(True, "leave special tokens out of the text, by default")
    max_seq_len: int = setting(0, "tokens of prompt and answer together; 0: the engine checks")
    max_prompt_chars: int = setting(
        0, "characters of a prompt; 0: 16 for each token of max_seq_len, where that is a bound"
    )
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
        for name in ("max_seq_len", "max_prompt_chars", "vocab_size"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.word_lists not in ("list", "csv"):
            raise SettingsError(f"word_lists is {self.word_lists!r}; it must be list or csv")
        if self.default_max_tokens < 1:
            raise SettingsError(
                f"default_max_tokens is {self.default_max_tokens}; it must be at least 1"
            )


@dataclass(slots=True)
class EngineRequest:
    """Arrays for the engine, named as preprocessing's outputs.

    Attributes:
        arrays: INPUT_ID int32 [rows, n], padded on the right; REQUEST_INPUT_LEN,
            REQUEST_OUTPUT_LEN, OUT_END_ID (-1: none), OUT_PAD_ID int32 [rows, 1];
            OUT_EXCLUDE_INPUT_IN_OUTPUT bool [rows, 1], for an engine that knows it; STOP_WORDS_IDS,
            BAD_WORDS_IDS int32 [rows, 2, n]; EMBEDDING_BIAS float32 [rows, vocabulary]; those of
            `inputs.OptionalInputs`; STREAM_KEY int64 [rows, 1]. Every tensor costs on its
            way, so those that say nothing are left out.
        sequence_id: the key, where Triton is to carry it.
    """

    arrays: dict[str, npt.NDArray[Any]]
    sequence_id: int | None = None


class _Row(NamedTuple):
    ids: list[int]
    max_tokens: int
    end_id: int
    pad_id: int
    stop_words: list[TokenIds]
    bad_words: list[TokenIds]
    bias: npt.NDArray[np.float32] | None
    context: RequestContext


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
        self._carrier = StreamKeyTransport.choose(
            settings.stream_key, response_parameters=response_parameters
        )
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self._prompts = PromptMaker(settings, self.tokenizer)
        self._vocab_size = settings.vocab_size or self.tokenizer.files.vocab_size
        self._most_chars = most_characters(
            settings.max_prompt_chars,
            0 if settings.truncate_prompt_tokens else settings.max_seq_len,
        )
        self._optional = OptionalInputs(self.tokenizer, self._vocab_size, self._most_chars)
        logger.info(
            "tokenizer %s of %s: BOS %s, EOS %s, PAD %s; template %s; stream keys travel by %s",
            settings.tokenizer_type,
            settings.tokenizer_dir,
            self.tokenizer.bos_id if self.tokenizer.adds_bos else "not added",
            list(self.tokenizer.eos_ids) or "none",
            self.tokenizer.pad_id,
            self._prompts.template_name,
            self._carrier.value,
        )

    def process(self, request: TextRequest) -> EngineRequest:
        """
        Raises:
            RequestError: the first thing that is wrong with the request.
            StoppingError: no new requests are taken.
        """
        (made,) = self.process_batch([request])
        if isinstance(made, Exception):
            raise made
        return made

    def process_batch(
        self, requests: Sequence[TextRequest | Exception]
    ) -> list[EngineRequest | Exception]:
        """All requests of one execute(); their texts are encoded together.

        Returns:
            For each request what the engine is to get, or the error that is the request's own.
            An error in the place of a request comes back as it is.
        """
        arrived = time.monotonic()
        if self._contexts.draining(arrived):
            stopping = StoppingError(
                "the server is stopping and takes no new requests; ask again later"
            )
            return [stopping] * len(requests)
        self._contexts.sweep(arrived)
        prompts = [self._prompts_of(request) for request in requests]
        ids = self._prompts.encode(
            [prompt for its in prompts if not isinstance(its, Exception) for prompt in its]
        )
        made: list[EngineRequest | Exception] = []
        first = 0
        for request, its in zip(requests, prompts, strict=True):
            if isinstance(request, Exception) or isinstance(its, Exception):
                made.append(its)  # type: ignore[arg-type]
                continue
            after = first + len(its)
            try:
                made.append(self._made(request, its, ids[first:after], arrived))
            except Exception as error:
                made.append(error)
            first = after
        return made

    def _prompts_of(self, request: TextRequest | Exception) -> list[Prompt] | Exception:
        if isinstance(request, Exception):
            return request
        try:
            made = self._prompts.make(request)
            for prompt in made:
                check_characters(len(prompt.text), self._most_chars, "the prompt")
            return made
        except Exception as error:
            return error

    def _made(
        self,
        request: TextRequest,
        prompts: Sequence[Prompt],
        ids: Sequence[list[int]],
        arrived: float,
    ) -> EngineRequest:
        rows = [
            self._row(request, at, its, prompt.continues, arrived)
            for at, (prompt, its) in enumerate(zip(prompts, ids, strict=True))
        ]
        longest = max(map(len, ids))
        padded = [row.ids + [row.pad_id] * (longest - len(row.ids)) for row in rows]
        input_ids = np.array(padded, dtype=np.int32)
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
        if any(row.bias is not None for row in rows):
            none = np.zeros(self._vocab_size, dtype=np.float32)
            made.arrays["EMBEDDING_BIAS"] = np.stack(
                [none if row.bias is None else row.bias for row in rows]
            )
        # The C++ backend wants these always; a Python engine has no use for them in one row.
        if len(rows) > 1 or self._carrier is not StreamKeyTransport.TENSOR:
            made.arrays["REQUEST_INPUT_LEN"] = _column([len(row.ids) for row in rows])
            made.arrays["OUT_PAD_ID"] = _column([row.pad_id for row in rows])
        made.arrays |= self._optional.arrays(request, input_ids)
        self._leave(request, [row.context for row in rows], made)
        return made

    def _leave(
        self, request: TextRequest, contexts: list[RequestContext], made: EngineRequest
    ) -> None:
        """Leave the rows' contexts for postprocessing, under keys that will reach it."""
        if self._carrier is StreamKeyTransport.TENSOR:
            keys = self._contexts.put_each(contexts)
            made.arrays["STREAM_KEY"] = np.array(keys, dtype=np.int64).reshape(-1, 1)
        elif self._carrier is StreamKeyTransport.SEQUENCE_ID:
            made.sequence_id = self._contexts.put(*contexts)
        elif (key := key_of_request_id(request.request_id)) is not None:
            self._contexts.put_under(key, contexts)
        if self._carrier is not StreamKeyTransport.TENSOR:
            # Whoever has the context puts the prompt in front; without one only the engine can.
            keyed = self._carrier is StreamKeyTransport.SEQUENCE_ID or bool(request.request_id)
            exclude = [[keyed or not context.echo] for context in contexts]
            made.arrays["OUT_EXCLUDE_INPUT_IN_OUTPUT"] = np.array(exclude)

    def _row(
        self, request: TextRequest, at: int, ids: list[int], continues: bool, arrived: float
    ) -> _Row:
        settings, tokenizer = self._settings, self.tokenizer
        max_tokens = at_row(request.max_tokens, at, None)
        if max_tokens is None:
            room = settings.max_seq_len - len(ids) if settings.max_seq_len else 2**31 - 1
            max_tokens = max(1, min(settings.default_max_tokens, room))
        check_length(len(ids), max_tokens, settings.max_seq_len)

        end_id = at_row(request.end_id, at, None)
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
        skip_special = at_row(request.skip_special_tokens, at, settings.skip_special_tokens)
        stream = at_row(request.stream, at, False)
        exclude = settings.exclude_input_in_output or stream
        echo = ""
        if not at_row(request.exclude_input_in_output, at, exclude):
            echo = tokenizer.decode(ids, skip_special_tokens=skip_special)
        return _Row(
            ids=ids,
            max_tokens=max_tokens,
            end_id=end_ids[0] if end_ids else -1,
            pad_id=at_row(request.pad_id, at, tokenizer.pad_id),
            stop_words=stop_words,
            bad_words=tokenizations(
                tokenizer, self._words(request.bad_words, at, "bad_words"), "bad_words"
            ),
            bias=self._bias(request, at),
            context=RequestContext(
                num_input_tokens=len(ids),
                end_ids=end_ids,
                stop_strings=stop_strings,
                include_stop=at_row(request.include_stop_str_in_output, at, False),
                skip_special_tokens=skip_special,
                echo=echo,
                arrived=arrived,
                continues=bool(echo) or continues,
                stream=stream,
                max_tokens=max_tokens,
                min_tokens=at_row(request.min_tokens, at, 1),
                stop_ids=tuple(stop_words),
            ),
        )

    def _bias(self, request: TextRequest, at: int) -> npt.NDArray[np.float32] | None:
        raw = at_row(request.embedding_bias_words, at, ())
        weights = at_row(request.embedding_bias_weights, at, ())
        if not raw and not weights:
            return None
        words = [text_of(word, "embedding_bias_words") for word in raw]
        check_characters(sum(map(len, words)), self._most_chars, "embedding_bias_words")
        return embedding_bias(self.tokenizer, words, weights, self._vocab_size)

    def _words(
        self, values: Sequence[Sequence[bytes]] | None, at: int, name: str
    ) -> tuple[str, ...]:
        """The words of row *at*; empty ones are what clients send for none."""
        if values is None:
            return ()
        words = [text_of(value, name) for value in values[at]]
        check_characters(sum(map(len, words)), self._most_chars, name)
        if self._settings.word_lists == "csv":
            words = [word for line in words for word in next(csv.reader([line]), [])]
        return tuple(word for word in words if word)


def _column(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, 1)
