"""Exact tokenizers, chat templates and streaming text for Triton's TensorRT-LLM ensemble.

The names in `__all__` are public. A name is imported when it is first used, so that the rank agent,
which has the standard library only, can import this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _PUBLIC
    from trt_tokenizers.client import generate as generate
    from trt_tokenizers.client import stream as stream
    from trt_tokenizers.engines.base import Chunk as Chunk
    from trt_tokenizers.engines.base import Emit as Emit
    from trt_tokenizers.engines.base import Engine as Engine
    from trt_tokenizers.engines.base import GenerationRequest as GenerationRequest
    from trt_tokenizers.errors import EngineError as EngineError
    from trt_tokenizers.errors import LaunchError as LaunchError
    from trt_tokenizers.errors import RepositoryError as RepositoryError
    from trt_tokenizers.errors import RequestError as RequestError
    from trt_tokenizers.errors import ServerNotFoundError as ServerNotFoundError
    from trt_tokenizers.errors import SettingsError as SettingsError
    from trt_tokenizers.errors import StoppingError as StoppingError
    from trt_tokenizers.errors import TemplateError as TemplateError
    from trt_tokenizers.errors import TokenizerError as TokenizerError
    from trt_tokenizers.errors import TrtTokenizersError as TrtTokenizersError
    from trt_tokenizers.pipeline import Answer as Answer
    from trt_tokenizers.pipeline import Pipeline as Pipeline
    from trt_tokenizers.streams.stream_key import FinishReason as FinishReason
    from trt_tokenizers.templates.render import ChatTemplate as ChatTemplate
    from trt_tokenizers.tokenizers.base import Tokenizer as Tokenizer
    from trt_tokenizers.tokenizers.base import TokenizerSettings as TokenizerSettings
    from trt_tokenizers.tokenizers.detokenize import ByteStreamDecoder as ByteStreamDecoder
    from trt_tokenizers.tokenizers.detokenize import StreamDecoder as StreamDecoder
    from trt_tokenizers.tokenizers.detokenize import WindowStreamDecoder as WindowStreamDecoder
    from trt_tokenizers.tokenizers.segmented import SegmentedTokenizer as SegmentedTokenizer

__version__ = "0.1.0"

#: Module -> its public names.
_PUBLIC = {
    "client": ("generate", "stream"),
    "engines.base": ("Chunk", "Emit", "Engine", "GenerationRequest"),
    "errors": (
        "EngineError",
        "LaunchError",
        "RepositoryError",
        "RequestError",
        "ServerNotFoundError",
        "SettingsError",
        "StoppingError",
        "TemplateError",
        "TokenizerError",
        "TrtTokenizersError",
    ),
    "pipeline": ("Answer", "Pipeline"),
    "streams.stream_key": ("FinishReason",),
    "templates.render": ("ChatTemplate",),
    "tokenizers.base": ("Tokenizer", "TokenizerSettings"),
    "tokenizers.detokenize": ("ByteStreamDecoder", "StreamDecoder", "WindowStreamDecoder"),
    "tokenizers.segmented": ("SegmentedTokenizer",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
