"""The interface of tokenizers. These docstrings are the manual for plugin authors.

A type is a class (or a function) that takes `TokenizerSettings` and returns a `Tokenizer`;
docs/plugins.md has an example.

`Tokenizer.set_bos`, `set_eos_and_pad` and `framed` apply generation_config.json and the settings
add_bos, add_eos, extra_eos_ids and pad_id. A type that sets the attributes itself must apply
``self.settings`` itself.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trt_tokenizers.errors import TokenizerError, one_line
from trt_tokenizers.settings import setting
from trt_tokenizers.tokenizers.detokenize import StreamDecoder, WindowStreamDecoder
from trt_tokenizers.tokenizers.files import TokenizerFiles
from trt_tokenizers.tokenizers.vocabulary import any_of

#: A character that Unicode reserves for programs. `Tokenizer.encode` omits it, so that a control
#: token with it inside is encoded as text. Only used if tokenizer_config.json has
#: split_special_tokens.
GUARD = "\ufdd1"


@contextmanager
def no_panic() -> Iterator[None]:
    """Raise TokenizerError for a panic of a Rust library, which is no Exception.

    A pattern that backtracks too far on a text panics, for example.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise TokenizerError(
            f"the tokenizer fails on this text: {one_line(error)}; send other text"
        ) from None


@dataclass(frozen=True)
class TokenizerSettings:
    """The tokenizer's settings in config.pbtxt, the same in pre- and postprocessing."""

    tokenizer_dir: str = setting("", "folder with the tokenizer's files; required")
    tokenizer_type: str = setting("auto", "name of a type, or module:Class")
    add_bos: bool | None = setting(None, "begin prompts with BOS; empty: by type and files")
    add_eos: bool | None = setting(None, "end text_input with EOS; empty: by type and files")
    extra_eos_ids: tuple[int, ...] = setting(
        (), "more ids that end an answer, beside those of the files"
    )
    pad_id: int | None = setting(
        None, "fills the rows of a batch; empty: PAD of the files, else EOS"
    )
    legacy: bool | None = setting(
        None, "SentencePiece: add a space after every special token; empty: by type"
    )
    use_fast: bool | None = setting(
        None, "false: the slow tokenizer of type 'transformers'; other types ignore it"
    )
    clean_up_tokenization_spaces: bool = setting(
        False, "drop spaces before punctuation, as for WordPiece; corrupts code"
    )
    tiktoken_pattern: str = setting(
        "",
        "type tiktoken: qwen, llama3, llama4, cl100k, o200k, gpt2 or a regular expression; "
        "empty: by the rank file",
    )
    trust_remote_code: bool = setting(False, "let type 'transformers' run code of tokenizer_dir")

    def __post_init__(self) -> None:
        if not self.tokenizer_dir:
            raise TokenizerError("tokenizer_dir is empty; set it to the tokenizer's folder")
        if not Path(self.tokenizer_dir).is_dir():
            raise TokenizerError(
                f"tokenizer_dir {self.tokenizer_dir!r} is not a folder; "
                "set it to the folder with tokenizer.json or tokenizer.model"
            )
        if min(self.extra_eos_ids, default=0) < 0 or (self.pad_id or 0) < 0:
            raise TokenizerError(
                f"pad_id is {self.pad_id} and extra_eos_ids {list(self.extra_eos_ids)}; "
                "ids must be 0 or more"
            )


class Tokenizer(ABC):
    """Text <-> token ids.

    A type either calls `set_bos` and `set_eos_and_pad`, or sets ``bos_id``, ``eos_ids``, ``pad_id``
    and ``adds_bos`` itself.

    Attributes:
        bos_id: id that begins a prompt; None if the model has none.
        eos_ids: every id that ends an answer, the main one first; may be empty.
        pad_id: fills the rows of a batch; EOS if the model has no PAD.
        unk_id: id of unknown text; None if the vocabulary has none.
        adds_bos: whether prompts begin with BOS.
        adds_eos: whether plain prompts (no chat template) end with EOS, as T5's do.
        chat_template: the tokenizer's Jinja source, or several by name; None if it has none.
        special_tokens: "bos_token", "eos_token", … -> text, for templates.
        control_tokens: texts of the special tokens that `encode` finds in a text.
        added_tokens: id -> text of each token beside the model's own vocabulary, and whether it is
            special.
        vocabulary_files: names of the files of the vocabulary, without those that every type reads
            (`files.SMALL_FILES`); empty if unknown.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    unk_id: int | None = None
    adds_bos: bool
    adds_eos: bool = False
    control_tokens: Collection[str]
    added_tokens: Mapping[int, tuple[str, bool]] = MappingProxyType({})
    vocabulary_files: tuple[str, ...] = ()
    _drops_bos = _drops_eos = False

    def __init__(self, settings: TokenizerSettings) -> None:
        """Read the small JSON files of the folder, if they exist; subclasses load the others.

        Raises:
            TokenizerError: a file is broken; names it.
        """
        self.settings = settings
        self.files = TokenizerFiles.read(Path(settings.tokenizer_dir))
        self.chat_template = self.files.chat_template
        self.special_tokens = self.files.special_tokens
        self.control_tokens = self.special_tokens.values()

    @abstractmethod
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of *text*; special tokens written in it become their ids.

        Args:
            text: valid Unicode without lone surrogates, perhaps with `GUARD`.
            add_special_tokens: add BOS and EOS as the type, files and settings say.
        """

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """`encode` of each text. Override it if the library is faster with several texts."""
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    @abstractmethod
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of *ids*; ids outside the vocabulary are ignored."""

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        """A decoder for one stream. Its texts, joined, equal `decode` of all its ids.

        Args:
            skip_special_tokens: omit them from the text.
            first: the ids begin a text; some tokenizers drop a space there.
        """
        return WindowStreamDecoder(
            lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens),
            () if first else self._any_ids,
        )

    @cached_property
    def _any_ids(self) -> list[int]:
        """Ids of any text, to decode before a stream that does not begin a text."""
        return self.encode("a", add_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one token inside a text; it may begin or end inside a character."""
        # Decoded twice: a decoder may treat the first token of a text differently.
        once, twice = (
            self.decode([token_id] * times, skip_special_tokens=False) for times in (1, 2)
        )
        return twice[len(once) :].encode()

    def offsets(self, text: str) -> list[tuple[int, int, int]] | None:
        """(id, start, end) of each token of `encode` without added special tokens.

        Start and end are characters of *text*. None if the library does not give offsets; the
        command ``tokenize`` then searches the text for the tokens.
        """
        return None

    def guarded(self, value: Any) -> Any:
        """*value*, text or JSON, with `GUARD` inside every control token, so that it stays text."""
        if isinstance(value, str):
            return self._find_control.sub(lambda m: "".join(c + GUARD for c in m.group()), value)
        if isinstance(value, list):
            return [self.guarded(item) for item in value]
        if isinstance(value, dict):
            return {self.guarded(key): self.guarded(item) for key, item in value.items()}
        return value

    def has_control(self, text: str) -> bool:
        """Whether *text* contains a control token."""
        return self._find_control.search(text) is not None

    @cached_property
    def _find_control(self) -> re.Pattern[str]:
        return re.compile(any_of(self.control_tokens))

    def encode_prompts(
        self, texts: Sequence[str], *, add_special_tokens: bool, ensure_bos: bool
    ) -> list[list[int]]:
        """Ids of each prompt for the engine, with exactly one BOS if the model expects one.

        Args:
            texts: the prompts; they may begin with BOS already (chat templates write it).
            add_special_tokens: as in `encode`.
            ensure_bos: prepend BOS if `adds_bos` and it is missing.
        """
        batch = self.encode_batch(texts, add_special_tokens=add_special_tokens)
        return [self._with_one_bos(ids, ensure_bos) for ids in batch]

    def _with_one_bos(self, ids: list[int], ensure_bos: bool) -> list[int]:
        bos = self.bos_id
        # A model that wants no BOS gets as many as the text contains.
        if bos is None or not self.adds_bos:
            return ids
        extra = 0
        while extra + 1 < len(ids) and ids[extra] == bos and ids[extra + 1] == bos:
            extra += 1
        if extra:
            ids = ids[extra:]
        if ensure_bos and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def set_bos(
        self, bos_id: int | None, *, file_adds: bool = False, default: bool = False
    ) -> None:
        """Set ``bos_id`` and ``adds_bos`` according to the setting ``add_bos``.

        Args:
            bos_id: the model's BOS; None if it has none.
            file_adds: the library prepends BOS itself.
            default: used if the setting ``add_bos`` is empty.

        Raises:
            TokenizerError: ``add_bos`` is true and there is no BOS.
        """
        wanted = self.settings.add_bos
        if wanted and bos_id is None:
            raise TokenizerError(
                f"add_bos is true but {self.files.directory} has no BOS; set bos_token in "
                "tokenizer_config.json, or leave add_bos empty"
            )
        self.bos_id = bos_id
        self.adds_bos = default if wanted is None else wanted
        self._drops_bos = file_adds and not self.adds_bos

    def set_eos_and_pad(
        self,
        eos_id: int | None,
        pad_id: int | None,
        *,
        file_adds: bool = False,
        default: bool | None = None,
    ) -> None:
        """Set ``eos_ids``, ``adds_eos`` and ``pad_id``.

        The settings ``add_eos``, ``extra_eos_ids`` and ``pad_id`` and generation_config.json apply.

        Args:
            eos_id: EOS of the tokenizer's files. It is the first of ``eos_ids``, before those of
                generation_config.json and of the setting.
            pad_id: falls back to EOS, and to 0 without EOS.
            file_adds: the library appends EOS itself.
            default: whether to add EOS if ``add_eos`` is empty; None: as the library does.

        Raises:
            TokenizerError: ``add_eos`` is true and there is no EOS.
        """
        main = [] if eos_id is None else [eos_id]
        self.eos_ids = tuple(
            dict.fromkeys([*main, *self.files.eos_ids, *self.settings.extra_eos_ids])
        )
        wanted = self.settings.add_eos
        if wanted and eos_id is None:
            raise TokenizerError(
                f"add_eos is true but {self.files.directory} has no EOS; set eos_token in "
                "tokenizer_config.json, or leave add_eos empty"
            )
        if wanted is None:
            wanted = file_adds if default is None else default
        self.adds_eos = wanted and eos_id is not None
        self._drops_eos = file_adds and not self.adds_eos
        if self.settings.pad_id is not None:
            pad_id = self.settings.pad_id
        self.pad_id = pad_id if pad_id is not None else next(iter(self.eos_ids), 0)

    def framed(self, ids: list[int]) -> list[int]:
        """*ids* with BOS and EOS added or removed as `set_bos` and `set_eos_and_pad` decided.

        For `encode` with ``add_special_tokens``: *ids* are those of the text alone, or those of a
        library that adds its special tokens.
        """
        if self._drops_bos:
            del ids[:1]
        elif self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        if self._drops_eos:
            del ids[-1:]
        elif self.adds_eos and ids[-1:] != [self.eos_ids[0]]:
            ids.append(self.eos_ids[0])
        return ids
