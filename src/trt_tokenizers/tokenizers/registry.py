"""Type name -> tokenizer. Only the selected type is imported.

Built-in types are entry points of this package, like those of other packages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from trt_tokenizers.errors import TokenizerError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.cleanup import CleanedUp

GROUP = "trt_tokenizers.tokenizers"

#: Older name -> name.
ALIASES = {"sp": "sentencepiece", "gpt": "gpt2"}

#: Module -> the requirement to install, if it is not the module's name.
_EXTRAS = {
    "tiktoken": "trt-tokenizers[tiktoken]",
    "mistral_common": "trt-tokenizers[mistral]",
    "transformers": "trt-tokenizers[transformers]",
}


def _install(module: str) -> str:
    return f"pip install '{_EXTRAS.get(module, module)}'"


#: Type -> the module that it imports when it is used, and the fix if that is missing.
NEEDS = {
    "tiktoken": ("tiktoken", _install("tiktoken")),
    "mistral": ("mistral_common", f"for tekken.json, {_install('mistral_common')}"),
    "transformers": ("transformers", _install("transformers")),
}

#: Attributes that every type must set.
_REQUIRED = ("bos_id", "adds_bos", "eos_ids", "pad_id")

logger = logging.getLogger(__name__)


def create(settings: TokenizerSettings) -> Tokenizer:
    """Load the tokenizer that *settings* select.

    Raises:
        TokenizerError: unknown or ambiguous type, missing dependency, files that do not load.
    """
    name = ALIASES.get(settings.tokenizer_type, settings.tokenizer_type)
    if name != settings.tokenizer_type:
        logger.info("tokenizer type %s is the older name of %s", settings.tokenizer_type, name)
    if settings.use_fast is False and name not in ("auto", "transformers"):
        logger.info("use_fast is false, but tokenizer type %s has no slow implementation", name)
    factory: Callable[[TokenizerSettings], Tokenizer] = find_plugin(
        GROUP, name, "tokenizer type", TokenizerError
    )
    try:
        tokenizer = factory(settings)
    except TrtTokenizersError:
        raise
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise TokenizerError(
            f"tokenizer type {name!r} needs the package {missing!r}; "
            f"install it: {_install(missing)}"
        ) from error
    except Exception as error:
        raise TokenizerError(
            f"tokenizer type {settings.tokenizer_type!r} cannot load {settings.tokenizer_dir!r}: "
            # transformers' messages have many lines.
            f"{type(error).__name__}: {' '.join(str(error).split())}; restore its files, or name "
            "another tokenizer_type"
        ) from error
    unset = [attribute for attribute in _REQUIRED if not hasattr(tokenizer, attribute)]
    if unset:
        raise TokenizerError(
            f"tokenizer type {name!r} returns a {type(tokenizer).__name__} without "
            f"{', '.join(unset)}; set them as docs/plugins.md shows"
        )
    if settings.clean_up_tokenization_spaces:
        return cast(Tokenizer, CleanedUp(tokenizer))
    return tokenizer
