"""What the engine transformers reports while it loads."""

from __future__ import annotations

import io
import re

import pytest

from applicable import needs_engine

needs_engine()

from trt_tokenizers.engines.transformers import loading  # noqa: E402


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_slow_loading_is_reported_in_whole_lines(
    every: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(loading, "_PROGRESS_EVERY", every)
    logging.set_tqdm_hook(loading._in_whole_lines)
    log = io.StringIO()
    assert list(logging.tqdm(range(4), desc="Loading weights", file=log)) == [0, 1, 2, 3]
    logging.set_tqdm_hook(None)
    percents = re.findall(r"\rLoading weights: +(\d+)% *\n", log.getvalue())
    assert percents[:3] == (["0", "25", "50"] if every == 0 else [])
