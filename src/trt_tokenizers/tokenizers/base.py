"""What a tokenizer is. These docstrings are the plugin author's manual.

A type is a class (or a function) that takes `TokenizerSettings` and gives a `Tokenizer`::

    class ReverseTokenizer(Tokenizer):
        bos_id, eos_ids, pad_id, adds_bos = None, (0,), 0, False

        def __init__(self, settings: TokenizerSettings) -> None:
            super().__init__(settings)

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [ord(c) for c in reversed(text)]

        def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
            return "".join(chr(i) for i in ids if i)

registered in its package's pyproject.toml and chosen by ``tokenizer_type: reverse``::

    [project.entry-points."trt_tokenizers.tokenizers"]
    reverse = "my_package:ReverseTokenizer"

or, without packaging it, by ``tokenizer_type: my_package:ReverseTokenizer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_tokenizers.detokenize import StreamDecoder, WindowStreamDecoder
from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.settings import setting
from trt_tokenizers.tokenizers.files import TokenizerFiles


@dataclass(frozen=True)
class TokenizerSettings:
    """What config.pbtxt says about the tokenizer; the same in pre- and postprocessing."""

    tokenizer_dir: str = setting("", "folder with the tokenizer's files; must be given")
    tokenizer_type: str = setting("auto", "a type's name, or module:Class")
    add_bos: bool | None = setting(None, "begin prompts with BOS; empty: as the type and files say")
    trust_remote_code: bool = setting(False, "let type 'transformers' run code of tokenizer_dir")

    def __post_init__(self) -> None:
        if not self.tokenizer_dir:
            raise TokenizerError("tokenizer_dir is empty; set it to the tokenizer's folder")
        if not Path(self.tokenizer_dir).is_dir():
            raise TokenizerError(
                f"tokenizer_dir {self.tokenizer_dir!r} is not a folder; "
                "set it to the folder that holds tokenizer.json or tokenizer.model"
            )


class Tokenizer(ABC):
    """Text <-> token ids.

    Attributes:
        bos_id: id that begins a prompt, if the model has one.
        eos_ids: every id that ends an answer, the main one first; may be empty.
        pad_id: fills the rows of a batch; EOS if the model has none of its own.
        adds_bos: whether prompts of this type begin with BOS.
        padding_side: which side transformers would pad. The arrays sent to the engine are padded
            on the right whatever this says: TensorRT-LLM reads them by ``input_lengths``.
        chat_template: Jinja source that came with the tokenizer, if any.
        special_tokens: "bos_token", "eos_token", … -> text, for templates.
        vocabulary_files: names of the files that it was made of, beside the small ones that every
            type reads (`files.SMALL_FILES`); empty: not known.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    adds_bos: bool
    padding_side: str = "right"
    vocabulary_files: tuple[str, ...] = ()

    def __init__(self, settings: TokenizerSettings) -> None:
        """Reads the small JSON files that every folder may hold; subclasses load the rest.

        Raises:
            TokenizerError: a file is missing or broken; names it.
        """
        self.settings = settings
        self.files = TokenizerFiles.read(Path(settings.tokenizer_dir))
        self.chat_template = self.files.chat_template
        self.special_tokens = self.files.special_tokens

    @abstractmethod
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of *text*; special tokens written out in it become their ids.

        Args:
            text: valid Unicode without lone surrogates.
            add_special_tokens: let the tokenizer add what its files say (BOS, EOS, …).
        """

    @abstractmethod
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of *ids*; ids outside the vocabulary give nothing."""

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        """A decoder for one stream; joined, its texts equal `decode` of all its ids.

        Args:
            skip_special_tokens: leave them out of the text.
            first: the ids begin a text, where some tokenizers drop a space.
        """
        return WindowStreamDecoder(
            lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens)
        )

    def encode_prompt(self, text: str, *, add_special_tokens: bool, ensure_bos: bool) -> list[int]:
        """Ids for the engine, with exactly one BOS in front where the model wants one.

        Args:
            text: the prompt; may hold BOS already (chat templates write it out).
            add_special_tokens: as in `encode`.
            ensure_bos: put BOS in front if `adds_bos` and it is not there.
        """
        ids = self.encode(text, add_special_tokens=add_special_tokens)
        bos = self.bos_id
        if bos is None:
            return ids
        extra = 0
        while extra + 1 < len(ids) and ids[extra] == bos and ids[extra + 1] == bos:
            extra += 1
        if extra:
            ids = ids[extra:]
        if ensure_bos and self.adds_bos and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _set_bos(self, bos_id: int | None, *, file_adds: bool, default: bool) -> None:
        """
        Args:
            bos_id: the model's BOS, if it has one.
            file_adds: the library that encodes puts BOS in front by itself.
            default: what holds where the setting ``add_bos`` says nothing.

        Raises:
            TokenizerError: BOS is wanted and there is none.
        """
        wanted = self.settings.add_bos
        if wanted and bos_id is None:
            raise TokenizerError(
                f"add_bos is true but {self.files.directory} names no BOS; name a bos_token in "
                "tokenizer_config.json, or leave add_bos empty"
            )
        self.bos_id = bos_id
        self.adds_bos = default if wanted is None else wanted
        self._drops_bos = file_adds and not self.adds_bos

    def _corrected_bos(self, ids: list[int]) -> list[int]:
        """*ids* of the library, special tokens included, with BOS as `_set_bos` decided."""
        if self._drops_bos:
            return ids[1:]
        if self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def _set_eos_and_pad(self, eos_id: int | None, pad_id: int | None) -> None:
        """*eos_id* of the tokenizer's own files first, then all those of generation_config.json;
        PAD falls back to EOS, and to 0 without either."""
        every = [] if eos_id is None else [eos_id]
        every += [i for i in self.files.eos_ids if i not in every]
        self.eos_ids = tuple(every)
        self.pad_id = pad_id if pad_id is not None else (every[0] if every else 0)
