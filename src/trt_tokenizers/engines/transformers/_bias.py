"""Embedding bias for the transformers engine: what a client adds to the logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor


class EmbeddingBias(LogitsProcessor):  # type: ignore[misc]
    """Adds float32 [vocabulary] to every row's scores."""

    def __init__(self, bias: npt.NDArray[np.float32]) -> None:
        self._bias = torch.from_numpy(np.array(bias))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._bias = self._bias.to(scores.device)
        # Models round their vocabulary up; the rows beyond the tokenizer's stay as they are.
        width = min(scores.shape[-1], len(self._bias))
        scores[..., :width] += self._bias[:width]
        return scores
