"""The losses against naive loops written from their papers, over micro-batches and processes, and by hand."""

import math
from dataclasses import replace

import pytest
import torch

import grpo
from grpo.config import GRPOConfig
from grpo.losses import LossInputs, token_weights
from grpo.losses.objective import Objective
from grpo.losses.registry import policy_loss_of
from tests.gloo import summed_over_two
from tests.ragged import LENGTHS, MAX_TOKENS, completions, lengths_of, ours, ragged_inputs, weighted

pytestmark = pytest.mark.slow

# Clips that hold some of the random ratios and not others, for each loss.
SETTINGS = {
    "grpo": {"clip_high": 0.28},
    "bnpo": {"clip_max": 1.4},
    "dr_grpo": {},
    "dapo": {},
    "cispo": {"clip_low": 0.3, "clip_high": 0.5},
    "gspo": {"clip_low": 0.1, "clip_high": 0.15},
    "gspo_token": {"clip_low": 0.1, "clip_high": 0.15},
    "sapo": {"sapo_tau_positive": 2.0, "sapo_tau_negative": 3.0},
    "reinforce": {},
}


def config_of(loss: str, **settings) -> GRPOConfig:
    return GRPOConfig(**{"loss": loss, "correction": "none", **SETTINGS[loss], **settings})


# -- the papers, token by token, with their gradient by log-prob written out -------------------------------------------


def clip_loop(ratio, advantage, config):
    """PPO's min of two products: (objective, d objective / d log ratio)."""
    first = min(ratio, config.clip_max or math.inf)
    slope = ratio if first == ratio else 0.0
    second = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
    if first * advantage <= second * advantage:
        return first * advantage, slope * advantage
    return second * advantage, 0.0


def naive_token(loss, config, logprob, old, advantage):
    ratio = math.exp(logprob - old)
    if loss == "cispo":
        weight = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
        return weight * advantage * logprob, weight * advantage
    if loss == "sapo":
        tau = config.sapo_tau_positive if advantage > 0 else config.sapo_tau_negative
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        return gate * 4 / tau * advantage, 4 * gate * (1 - gate) * ratio * advantage
    if loss == "reinforce":
        return advantage * logprob, advantage
    return clip_loop(ratio, advantage, config)


def naive_sequence(config, logprobs, olds, advantage):
    """GSPO: one ratio for the completion; d log s / d logprob_t = 1 / |o|."""
    n = len(logprobs)
    ratio = math.exp(sum(a - b for a, b in zip(logprobs, olds, strict=True)) / n)
    value, slope = clip_loop(ratio, advantage, config)
    return value, [slope / n] * n


def naive_weight(loss, length, lengths):
    """What each completion's sum of token objectives is divided by in the loss's paper."""
    if loss in ("grpo", "sapo"):
        return 1 / (len(lengths) * length)
    if loss in ("dr_grpo", "reinforce"):
        return 1 / (len(lengths) * MAX_TOKENS)
    return 1 / sum(lengths)


def naive(loss, inputs: LossInputs, config: GRPOConfig) -> tuple[float, list[float]]:
    lengths, value, gradient, start = lengths_of(inputs), 0.0, [], 0
    for length in lengths:
        tokens = range(start, start + length)
        start += length
        logprobs = [inputs.logprobs_T[t].item() for t in tokens]
        olds = [inputs.old_logprobs_T[t].item() for t in tokens]
        advantage = inputs.advantage_T[tokens[0]].item()
        if loss.startswith("gspo"):
            objective, slopes = naive_sequence(config, logprobs, olds, advantage)
            value -= objective / len(lengths)
            gradient += [-slope / len(lengths) for slope in slopes]
            continue
        weight = naive_weight(loss, length, lengths)
        for logprob, old in zip(logprobs, olds, strict=True):
            objective, slope = naive_token(loss, config, logprob, old, advantage)
            value -= weight * objective
            gradient.append(-weight * slope)
    return value, gradient


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("loss", SETTINGS)
def test_value_and_gradient_equal_a_naive_loop(loss, seed):
    inputs, config = ragged_inputs(seed), config_of(loss)
    value, grad_T, terms = ours(inputs, config)
    naive_value, naive_gradient = naive(loss, inputs, config)
    assert value == pytest.approx(naive_value, abs=1e-5)
    assert (grad_T - torch.tensor(naive_gradient)).abs().max() < 1e-5
    if loss not in ("sapo", "reinforce"):  # which have no clip
        assert 0 < terms.stats["clipped"] < len(grad_T)


# -- the batch in parts ------------------------------------------------------------------------------------------------

EVERYTHING = {
    "correction": "sequence_mask",
    "correction_cap": 1.2,
    "correction_floor": 0.8,
    "stale_correction": "truncate",
    "kl_coef": 0.1,
    "entropy_coef": 0.2,
}


def share_of_gradient(loss: str, rank: int) -> torch.Tensor:
    """Of process `rank`: the gradient of every second completion, in two micro-batches."""
    config = config_of(loss, **EVERYTHING)
    inputs, objective = weighted(ragged_inputs(4), config), Objective(config)
    mine = list(range(rank, len(LENGTHS), 2))
    for chosen in (mine[:1], mine[1:]):
        objective(completions(inputs, chosen)).loss.backward()
    return torch.cat([inputs.logprobs_T.grad, inputs.entropy_T.grad])


@pytest.mark.parametrize("loss", SETTINGS)
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(loss):
    inputs = ragged_inputs(4)
    _, grad_T, terms = ours(inputs, config_of(loss, **EVERYTHING))
    whole = torch.cat([grad_T, inputs.entropy_T.grad])
    parts = share_of_gradient(loss, 0) + share_of_gradient(loss, 1)
    assert (parts - whole).abs().max() < 1e-6
    assert whole.abs().max() > 1e-3
    assert 0 < terms.stats["corrected"] < len(grad_T)


def shares_of_gradients(rank: int) -> torch.Tensor:
    return torch.cat([share_of_gradient(loss, rank) for loss in SETTINGS])


def test_two_processes_sum_to_the_gradient_of_the_whole_batch(tmp_path):
    wholes = []
    for loss in SETTINGS:
        inputs = ragged_inputs(4)
        _, grad_T, _ = ours(inputs, config_of(loss, **EVERYTHING))
        wholes += [grad_T, inputs.entropy_T.grad]
    total = summed_over_two(shares_of_gradients, tmp_path)
    assert (total - torch.cat(wholes)).abs().max() < 1e-6


@pytest.mark.parametrize("loss", SETTINGS)
def test_leaving_out_completions_without_advantage_changes_nothing(loss):
    config = config_of(loss, correction="truncate")
    assert Objective(config).skips_zero_advantage
    inputs = ragged_inputs(5)
    inputs = replace(inputs, advantage_T=torch.where(inputs.sequence_T % 3 == 0, 0.0, inputs.advantage_T))
    _, whole_T, _ = ours(inputs, config)
    inputs.logprobs_T.grad = None
    kept = [i for i in range(len(LENGTHS)) if i % 3]
    Objective(config)(completions(weighted(inputs, config), kept)).loss.backward()
    assert (inputs.logprobs_T.grad - whole_T).abs().max() < 1e-6


def test_completions_without_advantage_are_needed_for_a_kl_a_bonus_and_a_loss_of_ones_own():
    for settings in ({"kl_coef": 0.1}, {"entropy_coef": 0.1}, {"entropy_target": 1.0}):
        assert not Objective(GRPOConfig(**settings)).skips_zero_advantage
    assert not Objective(GRPOConfig(loss="tests.grpo.losses.test_own:advantage_less")).skips_zero_advantage
    assert Objective(GRPOConfig(kl_coef=0.1, kl_place="reward")).skips_zero_advantage


# -- by hand -----------------------------------------------------------------------------------------------------------


def inputs_by_hand(logprobs, old, advantages) -> LossInputs:
    n = len(logprobs)
    return LossInputs(
        logprobs_T=torch.tensor(logprobs, requires_grad=True),
        old_logprobs_T=torch.tensor(old),
        sampler_logprobs_T=torch.tensor(old),
        advantage_T=torch.tensor(advantages),
        weight_T=torch.ones(n),
        sequence_T=torch.arange(n),
        n_sequences=n,
        entropy_T=torch.zeros(n),
    )


def test_the_clip_stops_the_gradient_of_a_ratio_that_has_moved_far_enough():
    # ratio e^0.5 = 1.65 > 1.2 with a positive advantage: no gradient; with a negative one: full gradient
    inputs = inputs_by_hand([-1.0, -1.0], [-1.5, -1.5], [1.0, -1.0])
    terms = grpo.policy_loss(inputs)
    terms.loss.backward()
    assert inputs.logprobs_T.grad.tolist() == pytest.approx([0.0, 1.6487], abs=1e-4)
    assert terms.stats["clipped"] == 1


def test_the_two_sided_clip_bounds_a_negative_advantage_and_stops_its_gradient():
    # ratio e^2 = 7.39 with advantage -1: loss 7.39 without the bound, 4 with it
    inputs = inputs_by_hand([-1.0], [-3.0], [-1.0])
    terms = grpo.policy_loss(inputs, GRPOConfig(clip_max=4.0))
    terms.loss.backward()
    assert (terms.loss.item(), inputs.logprobs_T.grad.item(), terms.stats["clipped"].item()) == (4.0, 0.0, 1)


def test_cispo_keeps_the_gradient_of_a_token_whose_weight_is_cut():
    # ratio e^2 = 7.39, cut to 5: gradient -5 * A
    inputs = inputs_by_hand([-1.0], [-3.0], [0.5])
    terms = grpo.policy_loss(inputs, GRPOConfig(loss="cispo"))
    terms.loss.backward()
    assert inputs.logprobs_T.grad.item() == pytest.approx(-2.5)
    assert terms.stats["clipped"] == 1


@pytest.mark.parametrize("loss", SETTINGS)
def test_on_policy_every_loss_has_the_gradient_of_reinforce(loss):
    inputs = ragged_inputs(6)
    inputs = replace(inputs, old_logprobs_T=inputs.logprobs_T.detach())
    policy_loss_of(config_of(loss))(inputs).loss_T.sum().backward()
    assert (inputs.logprobs_T.grad + inputs.advantage_T).abs().max() < 1e-5


def test_gspo_token_takes_advantages_that_differ_by_token():
    # s = exp(mean(0.2, 0)) = e^0.1 = 1.105, not clipped at 0.2: gradient of token t is -s * A_t
    inputs = replace(
        inputs_by_hand([-1.0, -1.0], [-1.2, -1.0], [1.0, 3.0]), sequence_T=torch.tensor([0, 0]), n_sequences=1
    )
    config = GRPOConfig(loss="gspo_token", clip_low=0.2, clip_high=0.2)
    grpo.policy_loss(inputs, config).loss.backward()
    assert inputs.logprobs_T.grad.tolist() == pytest.approx([-1.1052, -3.3155], abs=1e-4)


def test_token_weights_by_hand():
    # two completions of 2 and 6 tokens, at most 10
    assert token_weights("sequence", [2, 6], 10) == pytest.approx([1 / 4, 1 / 12])
    assert token_weights("constant", [2, 6], 10) == pytest.approx([1 / 20, 1 / 20])
    assert token_weights("token", [2, 6], 10) == pytest.approx([1 / 8, 1 / 8])


def test_a_masked_completion_counts_as_a_completion_but_its_tokens_do_not():
    assert token_weights("sequence", [4, 0], 10)[0] == pytest.approx(1 / 8)
    assert token_weights("constant", [4, 0], 10)[0] == pytest.approx(1 / 20)
    assert token_weights("token", [4, 0], 10)[0] == pytest.approx(1 / 4)
