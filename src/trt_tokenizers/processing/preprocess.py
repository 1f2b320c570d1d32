"""Request text -> engine request: bytes and arrays in, arrays out. No Triton here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import SettingsError, StoppingError, as_exception
from trt_tokenizers.processing.optional_inputs import optional_arrays
from trt_tokenizers.processing.prompts import Prompt, PromptMaker, PromptSettings
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.processing.stop_words import WordInputs, tokenizations
from trt_tokenizers.settings import setting
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.limits import check_characters, check_length, most_characters
from trt_tokenizers.streams.stream_key import StreamKeyTransport
from trt_tokenizers.streams.word_arrays import TokenIds, to_array
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.registry import create as create_tokenizer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PROMPT_END = 200  # characters: from them a reader sees how the answer begins


@dataclass(frozen=True)
class PreprocessingSettings(PromptSettings):
    """``parameters`` of the model preprocessing in config.pbtxt."""

    skip_special_tokens: bool = setting(True, "remove special tokens from the text, by default")
    max_seq_len: int = setting(
        0, "maximum tokens of prompt and answer together; 0: the engine checks"
    )
    max_prompt_chars: int = setting(
        0, "maximum characters of a prompt; 0: 16 per token of max_seq_len, if that is set"
    )
    default_max_tokens: int = setting(512, "max_tokens of requests that do not send it")
    stream_key: str = setting(
        "auto", "transport of stream keys: tensor, sequence_id, request_id, auto"
    )
    max_words: int = setting(
        1000, "maximum words in each of stop_words, bad_words and embedding_bias_words of a request"
    )
    word_lists: str = setting(
        "list", "list: each string is a word; csv: one CSV string, as before 0.11"
    )
    exclude_input_in_output: bool = setting(
        True, "leave the prompt out of answers without stream, unless the request says otherwise"
    )
    vocab_size: int = setting(
        0, "vocabulary size of the engine, for embedding_bias_words; 0: from config.json"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("max_seq_len", "max_prompt_chars", "max_words", "vocab_size", "default_max_tokens")
        for name in names:
            least = 1 if name == "default_max_tokens" else 0
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.word_lists not in ("list", "csv"):
            raise SettingsError(f"word_lists is {self.word_lists!r}; it must be list or csv")


@dataclass(slots=True)
class EngineRequest:
    """Arrays for the engine, named as the outputs of preprocessing.

    Attributes:
        arrays: INPUT_ID int32 [rows, n], padded on the right; REQUEST_INPUT_LEN,
            REQUEST_OUTPUT_LEN, OUT_END_ID (-1: none), OUT_PAD_ID int32 [rows, 1];
            OUT_EXCLUDE_INPUT_IN_OUTPUT bool [rows, 1]; STOP_WORDS_IDS, BAD_WORDS_IDS int32
            [rows, 2, n]; EMBEDDING_BIAS float32 [rows, vocabulary]; those of
            `optional_arrays`; STREAM_KEY int64 [rows, 1]. Each tensor costs time
            in Triton, so those without effect are left out.
        sequence_id: the stream key, if Triton transports it.
    """

    arrays: dict[str, npt.NDArray[Any]]
    sequence_id: int | None = None


class _Row(NamedTuple):
    """One text of a request, for the engine, and its context for postprocessing."""

    ids: list[int]
    pad_id: int
    bad_words: list[TokenIds]
    bias: npt.NDArray[np.float32] | None
    context: RequestContext


class Preprocessor:
    """The logic of the model preprocessing; one per model instance."""

    def __init__(
        self,
        settings: PreprocessingSettings,
        contexts: ContextStore,
        *,
        response_parameters: bool = False,
    ) -> None:
        """Load tokenizer and template.

        Args:
            settings: from config.pbtxt.
            contexts: the store that postprocessing reads.
            response_parameters: whether the server's Python backend supports them.

        Raises:
            SettingsError, TokenizerError, TemplateError: the settings or the files are wrong.
        """
        self._settings = settings
        self._transport = StreamKeyTransport.choose(
            settings.stream_key, response_parameters=response_parameters
        )
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self.prompts = PromptMaker(settings, self.tokenizer)
        self._vocab_size = settings.vocab_size or self.tokenizer.files.vocab_size
        self._most_chars = most_characters(
            settings.max_prompt_chars,
            0 if settings.truncate_prompt_tokens else settings.max_seq_len,
        )
        self._words = WordInputs(
            self.tokenizer,
            self._vocab_size,
            max_words=settings.max_words,
            most_characters=self._most_chars,
            csv_form=settings.word_lists == "csv",
        )
        logger.info(
            "tokenizer %s in %s: BOS %s, EOS %s, PAD %s; template %s; transport of stream keys: %s",
            settings.tokenizer_type,
            settings.tokenizer_dir,
            self.tokenizer.bos_id if self.tokenizer.adds_bos else "not added",
            list(self.tokenizer.eos_ids) or "none",
            self.tokenizer.pad_id,
            self.prompts.template_name,
            self._transport.value,
        )

    def process_batch(
        self, requests: Sequence[TextRequest | Exception]
    ) -> list[EngineRequest | Exception]:
        """Process all requests of one execute(); their texts are encoded together.

        Returns:
            For each request the engine request, or the request's own error. An error in place of
            a request is returned unchanged. `StoppingError` for all while the server stops.
        """
        arrived = time.monotonic()
        if self._contexts.draining(arrived):
            stopping = StoppingError(
                "the server is stopping and takes no new requests; ask again later"
            )
            return [stopping] * len(requests)
        self._contexts.sweep(arrived)
        prompts_of = [_attempt(self.prompts_of, request) for request in requests]
        ids_of = self._encode(prompts_of)
        return [
            _attempt(self._engine_request, request, prompts, ids, arrived)
            for request, prompts, ids in zip(requests, prompts_of, ids_of, strict=True)
        ]

    def _encode(
        self, prompts_of: Sequence[list[Prompt] | Exception]
    ) -> list[list[list[int]] | Exception]:
        """The ids of each request's prompts, or the request's error."""
        valid = [prompts for prompts in prompts_of if not isinstance(prompts, Exception)]
        together = _attempt(self.prompts.encode, [p for prompts in valid for p in prompts])
        if isinstance(together, Exception):  # one request must not fail the others
            return [_attempt(self.prompts.encode, prompts) for prompts in prompts_of]
        ids = iter(together)
        return [
            prompts if isinstance(prompts, Exception) else [next(ids) for _ in prompts]
            for prompts in prompts_of
        ]

    def prompts_of(self, request: TextRequest) -> list[Prompt]:
        """The prompts of *request*, one per row; RequestError if one is wrong or too long."""
        prompts = self.prompts.make(request)
        for prompt in prompts:
            check_characters(len(prompt.text), self._most_chars, "the prompt")
        return prompts

    def _engine_request(
        self,
        request: TextRequest,
        prompts: Sequence[Prompt],
        ids: Sequence[list[int]],
        arrived: float,
    ) -> EngineRequest:
        """The engine request of *request*, whose prompts have these *ids*."""
        rows = [
            self._row(request, row, ids[row], prompt, arrived) for row, prompt in enumerate(prompts)
        ]
        longest = max(len(row.ids) for row in rows)
        padded = [row.ids + [row.pad_id] * (longest - len(row.ids)) for row in rows]
        input_ids = np.array(padded, dtype=np.int32)
        arrays = {
            "INPUT_ID": input_ids,
            "REQUEST_OUTPUT_LEN": _column([row.context.max_tokens for row in rows]),
            # The engine takes one end id; it gets the others as stop words of one token.
            "OUT_END_ID": _column([next(iter(row.context.end_ids), -1) for row in rows]),
        }
        if any(row.context.stop_ids for row in rows):
            arrays["STOP_WORDS_IDS"] = to_array([row.context.stop_ids for row in rows])
        if any(row.bad_words for row in rows):
            arrays["BAD_WORDS_IDS"] = to_array([row.bad_words for row in rows])
        if any(row.bias is not None for row in rows):
            zeros = np.zeros(self._vocab_size, dtype=np.float32)
            arrays["EMBEDDING_BIAS"] = np.stack(
                [zeros if row.bias is None else row.bias for row in rows]
            )
        # The C++ backend always needs these; a Python engine needs them for several rows only.
        if len(rows) > 1 or self._transport is not StreamKeyTransport.TENSOR:
            arrays["REQUEST_INPUT_LEN"] = _column([len(row.ids) for row in rows])
            arrays["OUT_PAD_ID"] = _column([row.pad_id for row in rows])
        arrays |= optional_arrays(
            request, input_ids, self.tokenizer, self._vocab_size, self._most_chars
        )
        sequence_id = self._store_contexts(request, [row.context for row in rows], arrays)
        return EngineRequest(arrays, sequence_id)

    def _store_contexts(
        self,
        request: TextRequest,
        contexts: list[RequestContext],
        arrays: dict[str, npt.NDArray[Any]],
    ) -> int | None:
        """Store the rows' contexts for postprocessing. Their keys travel in *arrays*, by the
        request's id, or as the sequence id that is returned."""
        sequence_id = None
        if self._transport is StreamKeyTransport.TENSOR:
            keys = self._contexts.put_each(contexts)
            arrays["STREAM_KEY"] = np.array(keys, dtype=np.int64).reshape(-1, 1)
            return None
        # Only a client that calls preprocessing alone asks for a key that no engine takes.
        if self._transport is StreamKeyTransport.SEQUENCE_ID:
            sequence_id = self._contexts.put(*contexts, direct=request.wants_key)
        elif request.request_id:
            self._contexts.put_under(request.request_id, contexts, direct=request.wants_key)
        # Postprocessing prepends the prompt if it has the context; otherwise the engine must.
        keyed = sequence_id is not None or bool(request.request_id)
        exclude = [[keyed or not context.echo] for context in contexts]
        arrays["OUT_EXCLUDE_INPUT_IN_OUTPUT"] = np.array(exclude)
        return sequence_id

    def _row(
        self, request: TextRequest, row: int, ids: list[int], prompt: Prompt, arrived: float
    ) -> _Row:
        """One row of *request*, whose prompt has these *ids*; checks its other inputs."""
        settings, tokenizer = self._settings, self.tokenizer
        max_tokens = request.at("max_tokens", row)
        if max_tokens is None:
            room = settings.max_seq_len - len(ids) if settings.max_seq_len else 2**31 - 1
            max_tokens = max(1, min(settings.default_max_tokens, room))
        check_length(len(ids), max_tokens, settings.max_seq_len)

        end_id = request.at("end_id", row)
        if end_id is None:
            end_ids = tokenizer.eos_ids
        elif end_id < 0:  # no id ends the answer
            end_ids = ()
        else:  # the client's id and the model's other ones end the answer
            end_ids = (end_id, *(i for i in tokenizer.eos_ids if i != end_id))
        stop_strings = self._words.words(request, "stop_words", row)
        stop_words = tokenizations(tokenizer, stop_strings, "stop_words")
        skip_special = request.at("skip_special_tokens", row, settings.skip_special_tokens)
        stream = request.at("stream", row)
        exclude = request.at("exclude_input_in_output", row, settings.exclude_input_in_output)
        marked = request.at("return_added_tokens", row)
        echo = ""
        if not (exclude or stream):  # in a stream TensorRT-LLM never sends the prompt
            echo = tokenizer.decode(ids, skip_special_tokens=skip_special)
        return _Row(
            ids=ids,
            pad_id=request.at("pad_id", row, tokenizer.pad_id),
            bad_words=tokenizations(
                tokenizer, self._words.words(request, "bad_words", row), "bad_words"
            ),
            bias=self._words.embedding_bias(request, row),
            context=RequestContext(
                num_input_tokens=len(ids),
                end_ids=end_ids,
                stop_strings=stop_strings,
                include_stop=request.at("include_stop_str_in_output", row),
                skip_special_tokens=skip_special,
                echo=echo,
                arrived=arrived,
                continues=bool(echo) or prompt.continues,
                stream=stream,
                max_tokens=max_tokens,
                min_tokens=request.at("min_tokens", row),
                stop_ids=(*((i,) for i in end_ids[1:]), *stop_words),
                prompt_end=prompt.text[-_PROMPT_END:] if marked else None,
                return_token_ids=request.at("return_token_ids", row),
            ),
        )


def _attempt(function: Callable[..., T], *arguments: Any) -> T | Exception:
    """The result of *function*, or the error that it raised or that is among its *arguments*."""
    if errors := [each for each in arguments if isinstance(each, Exception)]:
        return errors[0]
    try:
        return function(*arguments)
    except BaseException as error:
        return as_exception(error)


def _column(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, 1)
