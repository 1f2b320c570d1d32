"""What a tokenizer is. These docstrings are the plugin author's manual.

A type is a class (or a function) that takes `TokenizerSettings` and gives a `Tokenizer`::

    class ReverseTokenizer(Tokenizer):
        def __init__(self, settings: TokenizerSettings) -> None:
            super().__init__(settings)  # reads the small JSON files
            self.set_bos(None)
            self.set_eos_and_pad(0, 0)

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            ids = [ord(c) for c in reversed(text)]
            return self.framed(ids) if add_special_tokens else ids

        def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
            return "".join(chr(i) for i in ids if i)

registered in its package's pyproject.toml and chosen by ``tokenizer_type: reverse``::

    [project.entry-points."trt_tokenizers.tokenizers"]
    reverse = "my_package:ReverseTokenizer"

or, without packaging it, by ``tokenizer_type: my_package:ReverseTokenizer``.

`Tokenizer.set_bos`, `set_eos_and_pad` and `framed` make a type do what the settings add_bos,
add_eos, extra_eos_ids and pad_id and generation_config.json ask for. A type may set the attributes
itself instead; it reads ``self.settings`` itself then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.settings import setting
from trt_tokenizers.tokenizers.detokenize import StreamDecoder, WindowStreamDecoder
from trt_tokenizers.tokenizers.files import TokenizerFiles


@dataclass(frozen=True)
class TokenizerSettings:
    """What config.pbtxt says about the tokenizer; the same in pre- and postprocessing."""

    tokenizer_dir: str = setting("", "folder with the tokenizer's files; must be given")
    tokenizer_type: str = setting("auto", "a type's name, or module:Class")
    add_bos: bool | None = setting(None, "begin prompts with BOS; empty: as type and files say")
    add_eos: bool | None = setting(None, "end text_input with EOS; empty: as type and files say")
    extra_eos_ids: tuple[int, ...] = setting((), "end an answer too, beside the ids of the files")
    pad_id: int | None = setting(None, "fills the rows of a batch; empty: the files' PAD, else EOS")
    padding_side: str = setting(
        "", "left or right, for plugins and logs: the engine's arrays are always padded right"
    )
    legacy: bool | None = setting(
        None, "SentencePiece: a space of its own after every special token; empty: as the type says"
    )
    use_fast: bool | None = setting(
        None, "accepted as transformers has it; only type 'transformers' has a slow way to choose"
    )
    clean_up_tokenization_spaces: bool = setting(
        False, "drop spaces before punctuation, as for WordPiece; wrong for code"
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
                "set it to the folder that holds tokenizer.json or tokenizer.model"
            )
        if min(self.extra_eos_ids, default=0) < 0 or (self.pad_id or 0) < 0:
            raise TokenizerError(
                f"pad_id is {self.pad_id} and extra_eos_ids {list(self.extra_eos_ids)}; "
                "ids are 0 or more"
            )
        if self.padding_side not in ("", "left", "right"):
            raise TokenizerError(f"padding_side is {self.padding_side!r}; it must be left or right")


class Tokenizer(ABC):
    """Text <-> token ids.

    `set_bos` and `set_eos_and_pad` set the first attributes as the settings have it; a type that
    leaves them out sets ``bos_id``, ``eos_ids``, ``pad_id`` and ``adds_bos`` itself.

    Attributes:
        bos_id: id that begins a prompt, if the model has one.
        eos_ids: every id that ends an answer, the main one first; may be empty.
        pad_id: fills the rows of a batch; EOS if the model has none of its own.
        unk_id: what stands for everything unknown, if text can have such a token.
        adds_bos: whether prompts of this type begin with BOS.
        adds_eos: whether plain prompts (no chat template) end with EOS, as T5's do.
        padding_side: which side transformers would pad. The arrays sent to the engine are padded
            on the right whatever this says: TensorRT-LLM reads them by ``input_lengths``.
        chat_template: Jinja source that came with the tokenizer, or several by name, if any.
        special_tokens: "bos_token", "eos_token", … -> text, for templates.
        vocabulary_files: names of the files that it was made of, beside the small ones that every
            type reads (`files.SMALL_FILES`); empty: not known.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    unk_id: int | None = None
    adds_bos: bool
    adds_eos: bool = False
    padding_side: str
    vocabulary_files: tuple[str, ...] = ()
    _drops_bos = _drops_eos = False

    def __init__(self, settings: TokenizerSettings) -> None:
        """Reads the small JSON files that every folder may hold; subclasses load the rest.

        Raises:
            TokenizerError: a file is missing or broken; names it.
        """
        self.settings = settings
        self.files = TokenizerFiles.read(Path(settings.tokenizer_dir))
        self.chat_template = self.files.chat_template
        self.special_tokens = self.files.special_tokens
        side = self.files.config.get("padding_side")
        self.padding_side = settings.padding_side or (side if side == "left" else "right")

    @abstractmethod
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of *text*; special tokens written out in it become their ids.

        Args:
            text: valid Unicode without lone surrogates.
            add_special_tokens: let the tokenizer add what its files say (BOS, EOS, …).
        """

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """`encode` of each text; a type whose library is faster on many at once overrides it."""
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

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
            lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens),
            () if first else self._any_ids,
        )

    @cached_property
    def _any_ids(self) -> list[int]:
        """Of some text, for what goes on after one: its decoder is past the first token then."""
        return self.encode("a", add_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one token as it stands inside a text; part of a character where it is cut."""
        # Twice, since a decoder may treat the first token of a text differently.
        once, twice = (
            self.decode([token_id] * times, skip_special_tokens=False) for times in (1, 2)
        )
        return twice[len(once) :].encode()

    def offsets(self, text: str) -> list[tuple[int, int, int]] | None:
        """(id, start, end) of each token that `encode` without added special tokens gives: the
        characters of *text* that it stands for. None where the library does not tell; they are
        looked for in the text then."""
        return None

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
        # Where the model wants none, several in front are what the text says.
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
        """Set ``bos_id`` and ``adds_bos``, as the setting ``add_bos`` has it.

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

    def set_eos_and_pad(
        self,
        eos_id: int | None,
        pad_id: int | None,
        *,
        file_adds: bool = False,
        default: bool | None = None,
    ) -> None:
        """Set ``eos_ids``, ``adds_eos`` and ``pad_id``, as the settings ``add_eos``,
        ``extra_eos_ids`` and ``pad_id`` and generation_config.json have it.

        Args:
            eos_id: that of the tokenizer's own files; it comes first, then those of
                generation_config.json, then the setting's.
            pad_id: falls back to EOS, and to 0 without either.
            file_adds: the library that encodes puts EOS at the end by itself.
            default: whether to add EOS where ``add_eos`` says nothing; None: as the library does.

        Raises:
            TokenizerError: EOS is to be added and there is none.
        """
        every = [] if eos_id is None else [eos_id]
        self.eos_ids = tuple(
            dict.fromkeys([*every, *self.files.eos_ids, *self.settings.extra_eos_ids])
        )
        wanted = self.settings.add_eos
        if wanted and eos_id is None:
            raise TokenizerError(
                f"add_eos is true but {self.files.directory} names no EOS; name an eos_token in "
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
        """*ids* of a text, or what a library made with its special tokens, with BOS and EOS as
        `set_bos` and `set_eos_and_pad` decided; for `encode` with ``add_special_tokens``."""
        if self._drops_bos:
            del ids[:1]
        elif self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        if self._drops_eos:
            del ids[-1:]
        elif self.adds_eos and ids[-1:] != [self.eos_ids[0]]:
            ids.append(self.eos_ids[0])
        return ids
