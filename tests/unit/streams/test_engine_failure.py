"""An engine's error, as tensors and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.errors import EngineError, RequestError, TrtTokenizersError, UnavailableError
from trt_tokenizers.streams.engine_failure import from_arrays, to_arrays
from trt_tokenizers.streams.stream_key import FinishReason, pack

KEYS = st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", [EngineError, RequestError, UnavailableError])
@given(keys=KEYS, text=st.text(st.characters(codec="utf-8")))
def test_an_error_arrives_as_it_was(
    kind: type[TrtTokenizersError], keys: list[int], text: str
) -> None:
    arrays = to_arrays(keys, kind(text))
    assert arrays["output_ids"].shape[:2] == (len(keys), 1)
    found = from_arrays(arrays["output_ids"], arrays["stream_key"][:, 0].tolist())
    assert found is not None
    assert found[0] == keys
    assert (type(found[1]), str(found[1])) == (kind, text)


@given(keys=KEYS, reason=st.sampled_from(FinishReason))
def test_a_response_with_tokens_is_no_error(keys: list[int], reason: FinishReason) -> None:
    packed = [pack(key, reason) for key in keys]
    assert from_arrays(np.zeros((len(keys), 1, 1), np.int32), packed) is None
