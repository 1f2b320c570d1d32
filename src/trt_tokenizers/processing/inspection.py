"""Questions to preprocessing alone: the prompt of a request, its tokens, the template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.preprocess import Preprocessor
from trt_tokenizers.processing.request import from_tensors, text_of
from trt_tokenizers.tokenizers.inspection import is_special

Arrays = dict[str, npt.NDArray[Any]]
_MAX_TOKENS = 4096  # a tenth of a second


def inspect(inputs: Mapping[str, npt.NDArray[Any]], preprocessor: Preprocessor) -> Arrays:
    """Answer a request with the input INSPECT, which nothing is generated for.

    Args:
        inputs: tensors of preprocessing. INSPECT is ``prompt`` for the prompt that the other inputs
            make, ``text`` for the text of TOKEN_IDS, ``tokens`` for the bytes of each of them,
            ``template`` for the chat template.

    Returns:
        PROMPT, BYTES [1, 1]; for ``prompt`` also INPUT_ID, int32 [1, n].

    Raises:
        RequestError: INSPECT or another input is wrong.
    """
    inputs, tokenizer = dict(inputs), preprocessor.tokenizer
    what = text_of(inputs.pop("INSPECT").ravel()[0], "INSPECT")
    given = inputs["TOKEN_IDS"].ravel().tolist() if "TOKEN_IDS" in inputs else []
    if what == "text":
        return _text(tokenizer.decode(given, skip_special_tokens=False))
    if what == "tokens":
        if len(given) > _MAX_TOKENS:
            raise RequestError(
                f"the bytes of {len(given)} tokens are asked for; send at most {_MAX_TOKENS}"
            )
        tokens = [
            {"id": i, "bytes": [*tokenizer.token_bytes(i)], "special": is_special(tokenizer, i)}
            for i in given
        ]
        return _text(json.dumps({"tokens": tokens, "bos_id": tokenizer.bos_id}))
    if what == "template":
        return _text(preprocessor.prompts.template_source)
    if what != "prompt":
        raise RequestError(f"INSPECT is {what[:40]!r}; send prompt, text, tokens or template")
    if not inputs:
        raise RequestError("the prompt is empty; send QUERY or MESSAGES")
    prompt = preprocessor.prompts_of(from_tensors(inputs, "", {}))[0]
    (ids,) = preprocessor.prompts.encode([prompt])
    return {**_text(prompt.text), "INPUT_ID": np.array([ids], dtype=np.int32)}


def _text(text: str) -> Arrays:
    return {"PROMPT": np.array([[text.encode()]], dtype=np.object_)}
