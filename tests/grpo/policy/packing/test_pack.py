"""Packed micro-batches: every sample once, a prompt once, within the budget, and of about one size."""

import random

import torch

from grpo.policy.packing.pack import pack, packed_micro_batches
from grpo.types import Sample


def group(prompt: tuple[int, ...], *lengths: int) -> list[Sample]:
    return [Sample(prompt, (2,) * n, (0.0,) * n, 1.0) for n in lengths]


def tokens(samples: list[Sample]) -> int:
    """Of a packed row: each prompt once, each completion without its last token."""
    return sum(map(len, {s.prompt_ids for s in samples})) + sum(len(s.completion_ids) - 1 for s in samples)


def test_every_sample_is_in_one_micro_batch_within_the_budget_and_none_is_much_smaller_than_another():
    rng = random.Random(0)
    samples = [s for i in range(50) for s in group((i,) * rng.randint(1, 20), *(rng.randint(1, 20) for _ in range(8)))]
    rng.shuffle(samples)
    batches = packed_micro_batches(samples, 500)
    assert sorted(i for batch in batches for i in batch) == list(range(400))
    sizes = [tokens([samples[i] for i in batch]) for batch in batches]
    assert max(sizes) <= 500
    assert min(sizes) > 0.7 * max(sizes)
    assert len(batches) <= -(-tokens(samples) // 500) + 1


def test_a_group_stays_together_unless_it_is_larger_than_the_budget():
    # 10 + 3 x 4 = 22 tokens together; of 18, two completions fit beside the prompt: 10 + 2 x 4
    samples = group((1,) * 10, 5, 5, 5)
    assert packed_micro_batches(samples, 22) == [[0, 1, 2]]
    assert packed_micro_batches(samples, 18) == [[0, 1], [2]]


def test_a_sample_longer_than_the_budget_stands_alone():
    assert packed_micro_batches(group((1,) * 400, 100) + group((2,), 5, 5), 100) == [[0], [1, 2]]


def test_nothing_to_train_on_gives_no_micro_batch():
    assert packed_micro_batches([], 100) == []


def test_the_first_token_of_each_completion_is_predicted_by_the_one_last_position_of_the_prompt():
    first, second = (5, 6), (9,)
    samples = [
        Sample(first, (7, 8, 1), (-1.0, -2.0, -3.0), 0.5),
        Sample(second, (4,), (-4.0,), -1.0),
        Sample(first, (3, 2), (-5.0, -6.0), 2.0),
    ]
    batch = pack(samples, [0.1, 0.2, 0.3])
    #                      prompt  first   third  prompt   (a completion's last token predicts nothing)
    assert batch.input_ids_RL.tolist() == [[5, 6, 7, 8, 3, 9]]
    assert batch.layout.position_T.tolist() == [0, 1, 2, 3, 2, 0]
    assert batch.target_T.tolist() == [7, 8, 1, 3, 2, 4]
    assert batch.col_T.tolist() == [1, 2, 3, 1, 4, 5]
    assert batch.row_T.tolist() == [0] * 6
    assert batch.sequence_T.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.n_sequences == 3
    torch.testing.assert_close(batch.sampler_logprobs_T, torch.tensor([-1.0, -2.0, -3.0, -5.0, -6.0, -4.0]))
    torch.testing.assert_close(batch.advantage_T, torch.tensor([0.5, 0.5, 0.5, 2.0, 2.0, -1.0]))
    torch.testing.assert_close(batch.weight_T, torch.tensor([0.1, 0.1, 0.1, 0.3, 0.3, 0.2]))
