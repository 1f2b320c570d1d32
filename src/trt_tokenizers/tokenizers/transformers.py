"""Type ``transformers``: any tokenizer that AutoTokenizer loads. Importing transformers is slow."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Sequence
from typing import Any

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import GUARD, Tokenizer, TokenizerSettings, no_panic
from trt_tokenizers.tokenizers.detokenize import StreamDecoder

logger = logging.getLogger(__name__)


class TransformersTokenizer(Tokenizer):
    """Encodes with transformers.

    A fast tokenizer decodes in its Rust core, so streams cost the same as those of type ``auto``. A
    slow one decodes in Python.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        """Load the settings' folder.

        Raises:
            TokenizerError: transformers is missing, or cannot load the folder.
        """
        super().__init__(settings)
        self._hf = auto_tokenizer(settings)
        hf = self._hf
        bos = hf.bos_token_id
        framed = list(hf.encode("a"))
        file_adds_bos = bos is not None and framed[:1] == [bos]
        self.set_bos(bos, file_adds=file_adds_bos, default=file_adds_bos)
        self.chat_template = self.chat_template or hf.chat_template
        self.special_tokens = {
            role: token for role, token in hf.special_tokens_map.items() if isinstance(token, str)
        }
        self.unk_id = hf.unk_token_id
        eos = hf.eos_token_id
        self.set_eos_and_pad(
            eos, hf.pad_token_id, file_adds=eos is not None and framed[-1:] == [eos]
        )
        self._fast: Tokenizer | None = None
        backend = getattr(hf, "backend_tokenizer", None)
        if backend is not None:
            from trt_tokenizers.tokenizers.fast import FastTokenizer

            self._fast = FastTokenizer(TokenizerSettings(settings.tokenizer_dir), backend)
            self.control_tokens = self._fast.control_tokens
            self.added_tokens = self._fast.added_tokens
        else:
            logger.warning(
                "tokenizer type transformers: %s encodes and decodes in Python, which is slow; a "
                "tokenizer.json (AutoTokenizer with use_fast, save_pretrained) or the type of its "
                "files (llama, gpt2, sentencepiece, t5, mistral, tiktoken) is faster",
                type(hf).__name__,
            )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        (ids,) = self.encode_batch([text], add_special_tokens=add_special_tokens)
        return ids

    @no_panic()
    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        options = {}
        if self.files.config.get("split_special_tokens"):
            # A slow tokenizer can only split all special tokens of a text or none.
            splits = self._fast is None and any(GUARD in text for text in texts)
            texts = [text.replace(GUARD, "") for text in texts] if splits else texts
            options["split_special_tokens"] = splits
        batch = self._hf(list(texts), add_special_tokens=add_special_tokens, **options)["input_ids"]
        return [self.framed(list(ids)) if add_special_tokens else list(ids) for ids in batch]

    @no_panic()
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        if self._fast is not None:
            return self._fast.decode(ids, skip_special_tokens=skip_special_tokens)
        return str(
            self._hf.decode(
                ids,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        if self._fast is not None:
            return self._fast.stream(skip_special_tokens=skip_special_tokens, first=first)
        return super().stream(skip_special_tokens=skip_special_tokens, first=first)

    def token_bytes(self, token_id: int) -> bytes:
        if self._fast is not None:
            return self._fast.token_bytes(token_id)
        return super().token_bytes(token_id)

    def offsets(self, text: str) -> list[tuple[int, int, int]] | None:
        return None if self._fast is None else self._fast.offsets(text)


def auto_tokenizer(settings: TokenizerSettings) -> Any:
    """AutoTokenizer's tokenizer for the folder, with the settings that it accepts.

    Raises:
        TokenizerError: transformers is missing. AutoTokenizer's own errors are not caught.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise TokenizerError(
            f"transformers is not installed, and {settings.tokenizer_dir} needs it; run: "
            "pip install 'trt-tokenizers[transformers]'"
        ) from error
    use_bundled_protobuf()
    chosen = {"use_fast": settings.use_fast, "legacy": settings.legacy}
    return AutoTokenizer.from_pretrained(
        settings.tokenizer_dir,
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def use_bundled_protobuf() -> None:
    """Let transformers read .model files if sentencepiece's protobuf module does not import.

    sentencepiece 0.2.2 and later generate that module for protobuf 7, and tritonclient requires
    protobuf 6. transformers bundles a module that works with both, but prefers sentencepiece's.
    """
    import sentencepiece

    try:
        importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception:  # protobuf's VersionError, or a missing protobuf
        with contextlib.suppress(ImportError):
            from transformers.utils import sentencepiece_model_pb2_new

            sentencepiece.sentencepiece_model_pb2 = sentencepiece_model_pb2_new
