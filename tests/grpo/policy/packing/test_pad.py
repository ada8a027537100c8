"""Padded micro-batches: every sample once, within the budget, and its tokens where the model predicts them."""

import random

import torch

from grpo.policy.packing.pad import pad, padded_micro_batches
from grpo.types import Sample


def sample(prompt: int, completion: int) -> Sample:
    return Sample((1,) * prompt, (2,) * completion, (0.0,) * completion, 1.0)


def test_every_sample_is_in_one_micro_batch_and_padded_sizes_keep_the_budget():
    rng = random.Random(0)
    samples = [sample(rng.randint(1, 20), rng.randint(1, 20)) for _ in range(200)]
    batches = padded_micro_batches(samples, 128)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) * max(samples[i].length for i in batch) <= 128 for batch in batches)


def test_a_sample_longer_than_the_budget_stands_alone():
    assert padded_micro_batches([sample(400, 100), sample(5, 5), sample(5, 5)], 100) == [[0], [1, 2]]


def test_a_trained_token_is_addressed_at_the_position_before_it():
    batch = pad([Sample((5, 6), (7, 8), (-1.0, -2.0), 0.5), Sample((9,), (4,), (-3.0,), -1.0)], [0.1, 0.2])
    assert batch.input_ids_RL.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch.row_T.tolist() == [0, 0, 1]
    assert batch.col_T.tolist() == [1, 2, 0]  # hidden after "6" predicts 7, after "7" predicts 8, after "9" predicts 4
    assert batch.target_T.tolist() == [7, 8, 4]
    assert batch.sequence_T.tolist() == [0, 0, 1]
    torch.testing.assert_close(batch.advantage_T, torch.tensor([0.5, 0.5, -1.0]))
    torch.testing.assert_close(batch.weight_T, torch.tensor([0.1, 0.1, 0.2]))
