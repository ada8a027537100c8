"""The loss and its gradient, against TRL's own `_compute_loss` and against hand-computed values."""

import random

import pytest
import torch

from grpo.loss import policy_loss, token_weights, truncated_correction
from grpo.model import completion_logprobs
from grpo.pad import pad as pack
from grpo.pad import padded_micro_batches
from grpo.types import Sample

MAX_TOKENS = 12


@pytest.fixture(scope="module")
def model():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).train()


def ragged_samples(model, seed: int, n: int = 8) -> tuple[list[Sample], list[list[float]]]:
    """Samples of random lengths, and for each the old log-probs of its tokens, near the model's own."""
    rng = random.Random(seed)
    samples, old = [], []
    for i in range(n):
        prompt = tuple(rng.randrange(1, 97) for _ in range(rng.randint(1, 9)))
        completion = tuple(rng.randrange(1, 97) for _ in range(rng.randint(1, MAX_TOKENS)))
        with torch.no_grad():
            bare = Sample(prompt, completion, (0.0,) * len(completion), 1.0)
            own = completion_logprobs(model, pack([bare], [1.0]), 1.0)[0].tolist()
        old.append([value + rng.gauss(0, 0.3) for value in own])
        sampler = tuple(value + rng.gauss(0, 0.3) for value in old[-1])
        samples.append(Sample(prompt, completion, sampler, 0.0 if i == 3 else rng.gauss(0, 1)))
    return samples, old


def our_gradient(model, samples, old, kind, *, kl_coef=0.0, ref=None, max_tokens_per_micro_batch=10_000, skip=False):
    model.zero_grad()
    weights = token_weights(kind, [len(s.completion_ids) for s in samples], MAX_TOKENS)
    kept = [i for i, s in enumerate(samples) if s.advantage or not skip]
    loss = 0.0
    for rows in padded_micro_batches([samples[i] for i in kept], max_tokens_per_micro_batch):
        chosen = [kept[row] for row in rows]
        micro = pack([samples[i] for i in chosen], [weights[i] for i in chosen])
        old_T = torch.tensor([value for i in chosen for value in old[i]])
        terms = policy_loss(
            completion_logprobs(model, micro, 1.0)[0],
            old_T,
            micro.advantage_T,
            micro.weight_T,
            clip_low=0.2,
            clip_high=0.28,
            correction_T=truncated_correction(old_T, micro.sampler_logprobs_T, 2.0),
            kl_coef=kl_coef,
            ref_logprobs_T=None if ref is None else torch.tensor([value for i in chosen for value in ref[i]]),
        )
        terms.loss.backward()
        loss += terms.loss.item()
    return loss, [p.grad.clone() for p in model.parameters()]


def trl_gradient(tmp_path, model, samples, old, kind, *, kl_coef=0.0, ref=None):
    """The same batch through TRL's GRPOTrainer._compute_loss, padded as TRL pads it."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    from tests.conftest import character_tokenizer

    tokenizer: PreTrainedTokenizerFast = character_tokenizer()
    args = GRPOConfig(
        output_dir=str(tmp_path),
        loss_type=kind,
        use_bias_correction_kl=False,  # DeepSeek-V3.2's variant; ours is the published k3
        epsilon=0.2,
        epsilon_high=0.28,
        max_completion_length=MAX_TOKENS,
        num_generations=len(samples),
        per_device_train_batch_size=len(samples),
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * len(samples)),
        processing_class=tokenizer,
    )
    # What TRL sets when it samples with vLLM: the truncated importance weights enter the loss.
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = kl_coef  # set late: its constructor would load a reference model from a hub
    prompt_width = max(len(s.prompt_ids) for s in samples)
    width = max(len(s.completion_ids) for s in samples)

    def right(rows, fill=0.0):
        return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])

    old_RL, sampler_RL = right(old), right([s.sampler_logprobs for s in samples])
    mask_RL = right([[1] * len(s.completion_ids) for s in samples], 0)
    inputs = {
        "prompt_ids": torch.tensor([[0] * (prompt_width - len(s.prompt_ids)) + list(s.prompt_ids) for s in samples]),
        "prompt_mask": torch.tensor(
            [[0] * (prompt_width - len(s.prompt_ids)) + [1] * len(s.prompt_ids) for s in samples]
        ),
        "completion_ids": right([s.completion_ids for s in samples], 0),
        "completion_mask": mask_RL,
        "advantages": torch.tensor([s.advantage for s in samples]),
        "old_per_token_logps": old_RL,
        "importance_sampling_ratio": torch.exp(old_RL - sampler_RL).clamp(max=2.0),
        "num_items_in_batch": mask_RL.sum(),
    }
    if ref is not None:
        inputs["ref_per_token_logps"] = right(ref)
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in trainer.model.parameters()]


def largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
def test_loss_and_gradient_equal_trl(tmp_path, model, kind, kl_coef):
    samples, old = ragged_samples(model, seed=1)
    ref = [[value - 0.1 * (j % 3) for j, value in enumerate(row)] for row in old] if kl_coef else None
    ours, our_grads = our_gradient(model, samples, old, kind, kl_coef=kl_coef, ref=ref)
    theirs, their_grads = trl_gradient(tmp_path, model, samples, old, kind, kl_coef=kl_coef, ref=ref)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert largest_difference(our_grads, their_grads) < 1e-5
    assert max(grad.abs().max() for grad in our_grads) > 1e-3  # the comparison is not of zeros


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
def test_splitting_the_batch_and_skipping_zero_advantages_leave_loss_and_gradient_as_they_were(model, kind):
    samples, old = ragged_samples(model, seed=2)
    whole, whole_grads = our_gradient(model, samples, old, kind)
    parts, part_grads = our_gradient(model, samples, old, kind, max_tokens_per_micro_batch=30, skip=True)
    assert parts == pytest.approx(whole, abs=1e-6)
    assert largest_difference(whole_grads, part_grads) < 1e-6


def test_token_weights_by_hand():
    # two completions of 2 and 6 tokens, at most 10
    assert token_weights("grpo", [2, 6], 10) == pytest.approx([1 / 4, 1 / 12])
    assert token_weights("dr_grpo", [2, 6], 10) == pytest.approx([1 / 20, 1 / 20])
    assert token_weights("dapo", [2, 6], 10) == pytest.approx([1 / 8, 1 / 8])


def test_a_masked_completion_counts_for_grpo_and_dr_grpo_but_its_tokens_do_not_for_dapo():
    assert token_weights("grpo", [4, 0], 10)[0] == pytest.approx(1 / 8)
    assert token_weights("dr_grpo", [4, 0], 10)[0] == pytest.approx(1 / 20)
    assert token_weights("dapo", [4, 0], 10)[0] == pytest.approx(1 / 4)


def test_the_clip_stops_the_gradient_of_a_ratio_that_has_moved_far_enough():
    # ratio e^0.5 = 1.65 > 1.2 with a positive advantage: no gradient; with a negative one: full gradient
    logprobs_T = torch.tensor([-1.0, -1.0], requires_grad=True)
    terms = policy_loss(
        logprobs_T,
        torch.tensor([-1.5, -1.5]),
        torch.tensor([1.0, -1.0]),
        torch.ones(2),
        clip_low=0.2,
        clip_high=0.2,
    )
    terms.loss.backward()
    assert logprobs_T.grad.tolist() == pytest.approx([0.0, 1.6487], abs=1e-4)
    assert terms.clipped.item() == 1


def test_the_correction_is_truncated_above_and_not_below():
    weights = truncated_correction(torch.tensor([0.0, -3.0]), torch.tensor([-3.0, 0.0]), cap=2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.0498], abs=1e-4)
