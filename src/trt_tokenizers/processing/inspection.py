"""Questions to preprocessing alone: the prompt of a request, the text of ids, the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.preprocess import Preprocessor
from trt_tokenizers.processing.request import from_tensors, text_of

Arrays = dict[str, npt.NDArray[Any]]


def inspect(inputs: Mapping[str, npt.NDArray[Any]], preprocessor: Preprocessor) -> Arrays:
    """Answer a request with the input INSPECT, which nothing is generated for.

    Args:
        inputs: tensors of preprocessing. INSPECT is ``prompt`` for the prompt that the other inputs
            make, ``text`` for the text of TOKEN_IDS, ``template`` for the chat template.

    Returns:
        PROMPT, BYTES [1, 1]; for ``prompt`` also INPUT_ID, int32 [1, n].

    Raises:
        RequestError: INSPECT or another input is wrong.
    """
    inputs, tokenizer = dict(inputs), preprocessor.tokenizer
    what = text_of(inputs.pop("INSPECT").ravel()[0], "INSPECT")
    if what == "text":
        ids = inputs["TOKEN_IDS"].ravel().tolist() if "TOKEN_IDS" in inputs else []
        return _text(tokenizer.decode(ids, skip_special_tokens=False))
    if what == "template":
        return _text(preprocessor.prompts.template_source)
    if what != "prompt":
        raise RequestError(f"INSPECT is {what[:40]!r}; send prompt, text or template")
    if not inputs:
        raise RequestError("the prompt is empty; send QUERY or MESSAGES")
    prompt = preprocessor.prompts_of(from_tensors(inputs, "", {}))[0]
    (ids,) = preprocessor.prompts.encode([prompt])
    return {**_text(prompt.text), "INPUT_ID": np.array([ids], dtype=np.int32)}


def _text(text: str) -> Arrays:
    return {"PROMPT": np.array([[text.encode()]], dtype=np.object_)}
