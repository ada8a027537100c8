"""Means over completions of a flat row of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_sum(values_T: Tensor, sequence_T: Tensor, n_sequences: int) -> Tensor:
    """Sum of each completion's tokens, shape (n_sequences,)."""
    return values_T.new_zeros(n_sequences).index_add(0, sequence_T, values_T)


def sequence_mean(values_T: Tensor, sequence_T: Tensor, n_sequences: int) -> Tensor:
    """Mean over each completion's tokens, shape (n_sequences,); 0 for a completion without tokens."""
    lengths_S = sequence_sum(torch.ones_like(values_T), sequence_T, n_sequences)  # bincount would wait for the GPU
    return sequence_sum(values_T, sequence_T, n_sequences) / lengths_S.clamp(min=1)
