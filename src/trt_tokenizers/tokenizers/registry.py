"""Type name -> tokenizer. Only the chosen type is imported.

Built-in types are entry points of this package, found the way anybody's are.
"""

from __future__ import annotations

from collections.abc import Callable

from trt_tokenizers.errors import TokenizerError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings

GROUP = "trt_tokenizers.tokenizers"


def create(settings: TokenizerSettings) -> Tokenizer:
    """Load the tokenizer that *settings* name.

    Raises:
        TokenizerError: unknown or ambiguous type, missing dependency, files that do not load.
    """
    factory: Callable[[TokenizerSettings], Tokenizer] = find_plugin(
        GROUP, settings.tokenizer_type, "tokenizer type", TokenizerError
    )
    try:
        return factory(settings)
    except TrtTokenizersError:
        raise
    except ModuleNotFoundError as error:
        raise TokenizerError(
            f"tokenizer type {settings.tokenizer_type!r} needs the package {error.name!r}; "
            f"install it: pip install {error.name}"
        ) from error
    except Exception as error:
        raise TokenizerError(
            f"tokenizer type {settings.tokenizer_type!r} cannot load {settings.tokenizer_dir!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
