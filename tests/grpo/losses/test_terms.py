"""KL, entropy and off-policy correction, against their definitions."""

import math
from dataclasses import replace

import pytest
import torch

from grpo.config import GRPOConfig
from grpo.losses.correction import Correction, corrected, correction_metrics, correction_stats
from grpo.losses.entropy import EntropyCoefficient, entropy_threshold
from grpo.losses.kl import kl_estimate, kl_penalties, kl_term
from grpo.losses.objective import Objective
from tests.ragged import lengths_of, ours, ragged_inputs

P = [0.5, 0.3, 0.2]  # policy over three tokens
REF = [0.2, 0.2, 0.6]
KL = sum(p * math.log(p / r) for p, r in zip(P, REF, strict=True))  # 0.3601


def expectation(estimator: str, corrected_kl: bool) -> tuple[float, torch.Tensor]:
    """The exact mean over tokens drawn from P of the KL term, and the mean of its gradient by the logits of P."""
    logits_V = torch.tensor(P).log().requires_grad_()
    inputs = replace(
        ragged_inputs(lengths=(1, 1, 1)),
        logprobs_T=torch.log_softmax(logits_V, 0),
        old_logprobs_T=torch.tensor(P).log(),
        ref_logprobs_T=torch.tensor(REF).log(),
    )
    mean = (kl_term(inputs, estimator, corrected_kl) * torch.tensor(P)).sum()
    mean.backward()
    return mean.item(), logits_V.grad


def kl_gradient(reverse: bool) -> torch.Tensor:
    """By the logits: of KL(pi || ref), else of KL(ref || pi)."""
    logits_V, ref_V = torch.tensor(P).log().requires_grad_(), torch.tensor(REF)
    logp_V = torch.log_softmax(logits_V, 0)
    kl = (logp_V.exp() * (logp_V - ref_V.log())).sum() if reverse else (ref_V * (ref_V.log() - logp_V)).sum()
    kl.backward()
    return logits_V.grad


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    assert expectation("k1", False)[0] == pytest.approx(KL, abs=1e-6)
    assert expectation("k3", False)[0] == pytest.approx(KL, abs=1e-6)
    # (0.5 ln^2 2.5 + 0.3 ln^2 1.5 + 0.2 ln^2 (1/3)) / 2 = 0.35525, the KL is 0.36006
    assert expectation("k2", False)[0] == pytest.approx(0.35525, abs=1e-5)
    assert pytest.approx(0.36006, abs=1e-5) == KL


def test_each_estimator_has_the_gradient_that_its_docstring_names():
    assert expectation("k1", False)[1].abs().max() < 1e-6
    assert (expectation("k2", False)[1] - kl_gradient(reverse=True)).abs().max() < 1e-6
    assert (expectation("k3", False)[1] - kl_gradient(reverse=False)).abs().max() < 1e-6


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_correction_makes_value_and_gradient_those_of_the_kl(estimator):
    value, gradient = expectation(estimator, True)
    assert value == pytest.approx(KL, abs=1e-6)
    assert (gradient - kl_gradient(reverse=True)).abs().max() < 1e-6


def test_estimates_by_hand():
    # r = log pi - log ref = -1 - (-3) = 2: k1 2, k2 2, k3 e^-2 - 1 + 2 = 1.1353
    at = torch.tensor([-1.0]), torch.tensor([-3.0])
    assert [kl_estimate(k, *at).item() for k in ("k1", "k2", "k3")] == pytest.approx([2.0, 2.0, 1.1353], abs=1e-4)


def test_a_kl_in_the_reward_is_summed_over_each_completion():
    inputs = ragged_inputs(1)
    penalties = kl_penalties("k1", inputs.sampler_logprobs_T, inputs.ref_logprobs_T, inputs.sequence_T, 8).tolist()
    start = 0
    for penalty, length in zip(penalties, lengths_of(inputs), strict=True):
        tokens = slice(start, start + length)
        naive = sum((inputs.sampler_logprobs_T[tokens] - inputs.ref_logprobs_T[tokens]).tolist())
        assert penalty == pytest.approx(naive, abs=1e-5)
        start += length


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_enters_the_loss_with_its_coefficient_and_the_normaliser(estimator):
    inputs, settings = ragged_inputs(2), {"correction": "none", "kl_estimator": estimator, "kl_corrected": True}
    without, _, _ = ours(inputs, GRPOConfig(correction="none"))
    value, _, terms = ours(inputs, GRPOConfig(kl_coef=0.3, **settings))
    kl_T = kl_term(inputs, estimator, True)
    by_completion = [part.mean() for part in kl_T.split(lengths_of(inputs))]
    assert value - without == pytest.approx(0.3 * sum(by_completion).item() / 8, abs=1e-5)
    plain = kl_estimate(estimator, inputs.logprobs_T, inputs.ref_logprobs_T).sum().item()
    assert terms.stats["kl"].item() == pytest.approx(plain, abs=1e-4)


def test_a_kl_in_the_reward_leaves_the_loss_alone():
    inputs = replace(ragged_inputs(2), ref_logprobs_T=None)
    assert ours(inputs, GRPOConfig(kl_coef=0.3, kl_place="reward"))[0] == ours(inputs, GRPOConfig())[0]


def test_a_kl_without_reference_is_refused():
    with pytest.raises(ValueError, match=r"needs inputs.ref_logprobs_T, got None"):
        Objective(GRPOConfig(kl_coef=0.1))(replace(ragged_inputs(2), ref_logprobs_T=None))


# -- entropy -----------------------------------------------------------------------------------------------------------


def test_the_bonus_is_taken_off_the_loss_by_coefficient_and_weight():
    inputs, config = ragged_inputs(3), GRPOConfig(loss="dapo", correction="none", entropy_coef=0.2)
    value, _, _ = ours(inputs, config)
    without, _, _ = ours(inputs, config.model_copy(update={"entropy_coef": 0.0}))
    assert value - without == pytest.approx(-0.2 * inputs.entropy_T.mean().item(), abs=1e-6)


def test_the_coefficient_follows_the_entropy_of_the_last_step():
    coefficient = EntropyCoefficient(0.1, target=1.0, step=0.05, maximum=0.2)
    applied = []
    for entropy in (0.5, 0.5, 0.5, 1.5, 0.8, 0.8):
        applied.append(coefficient.value)
        coefficient.observe(entropy)
    # nothing before the first entropy; 0.15, 0.2 and held at 0.2; 1.5 > 1 turns it off and lowers it to 0.15; 0.2
    assert applied == pytest.approx([0.0, 0.15, 0.2, 0.2, 0.0, 0.2])


def test_the_coefficient_does_not_fall_below_0_and_is_fixed_without_a_target():
    steered, fixed = EntropyCoefficient(0.01, target=1.0, step=0.05), EntropyCoefficient(0.01)
    for one in (steered, fixed):
        one.observe(2.0)
        one.observe(0.5)
    assert (steered.value, fixed.value) == pytest.approx((0.05, 0.01))


def test_the_coefficient_goes_on_from_its_state():
    first = EntropyCoefficient(0.1, target=1.0)
    first.observe(0.5)
    second = EntropyCoefficient(0.1, target=1.0)
    second.state.copy_(first.state)
    assert second.value == first.value == pytest.approx(0.105)


def test_the_threshold_keeps_the_top_share_and_ties():
    # 11 tokens, top 20%: from place ceil(0.8 * 10) = 8 upwards, that is the three highest
    entropy_T = torch.arange(11.0)[torch.randperm(11, generator=torch.Generator().manual_seed(0))]
    assert entropy_threshold(entropy_T, 0.2) == 8.0
    assert entropy_threshold(entropy_T, 1.0) == 0.0
    assert entropy_threshold(torch.tensor([1.0, 1.0, 1.0]), 0.2) == 1.0


def test_masked_tokens_have_no_policy_gradient_and_count_in_the_normaliser():
    inputs = ragged_inputs(4)
    mask_T = inputs.entropy_T.detach() >= entropy_threshold(inputs.entropy_T, 0.2)
    _, masked_T, _ = ours(replace(inputs, policy_mask_T=mask_T), GRPOConfig(loss="cispo"))
    _, all_T, _ = ours(inputs, GRPOConfig(loss="cispo"))
    assert torch.equal(masked_T, all_T * mask_T)
    assert 0 < mask_T.sum() < len(mask_T) / 3


# -- off-policy correction ---------------------------------------------------------------------------------------------


def naive_weights(inputs, kind: str, cap: float, floor: float) -> list[float]:
    """Token by token, of a batch with one cause."""
    difference = (inputs.old_logprobs_T - inputs.sampler_logprobs_T).tolist()
    sequence = inputs.sequence_T.tolist()
    if kind.startswith("sequence"):
        own = {i: [d for d, s in zip(difference, sequence, strict=True) if s == i] for i in sequence}
        difference = [sum(own[i]) / len(own[i]) for i in sequence]
    weights = []
    for d in difference:
        u = math.exp(d)
        if kind in ("none", "coupled"):
            weights.append(1.0)
        elif kind.endswith("truncate"):
            weights.append(max(floor, min(u, cap)))
        elif kind == "decoupled":
            weights.append(u if u <= cap else 0.0)
        else:
            weights.append(u if floor <= u <= cap else 0.0)
    return weights


KINDS = ["none", "truncate", "mask", "decoupled", "sequence_truncate", "sequence_mask", "coupled"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_a_naive_loop(kind):
    inputs = replace(ragged_inputs(5), staleness_T=None)
    correction = Correction(kind, cap=1.2, floor=0.8)
    result = corrected(inputs, correction, correction)
    assert result.weight_T.tolist() == pytest.approx(naive_weights(inputs, kind, 1.2, 0.8), abs=1e-5)
    assert not result.weight_T.requires_grad
    assert (result.cut_T.sum() > 0) == (kind not in ("none", "coupled"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_that_agrees_needs_no_correction(kind):
    inputs = ragged_inputs(6)
    inputs = replace(inputs, sampler_logprobs_T=inputs.old_logprobs_T)
    correction = Correction(kind, cap=1.2, floor=0.8)
    result = corrected(inputs, correction, correction)
    assert result.weight_T.tolist() == [1.0] * len(result.weight_T)
    assert not result.cut_T.any()


@pytest.mark.parametrize("fresh_kind", ["truncate", "sequence_mask"])
def test_stale_tokens_have_a_correction_of_their_own(fresh_kind):
    inputs = ragged_inputs(7)
    stale_T = inputs.staleness_T > 0
    result = corrected(inputs, Correction(fresh_kind, 1.2, 0.8), Correction("mask", 1.5, 0.5))
    fresh = replace_tokens(inputs, ~stale_T)
    assert result.weight_T[~stale_T].tolist() == pytest.approx(naive_weights(fresh, fresh_kind, 1.2, 0.8), abs=1e-5)
    stale = replace_tokens(inputs, stale_T)
    assert result.weight_T[stale_T].tolist() == pytest.approx(naive_weights(stale, "mask", 1.5, 0.5), abs=1e-5)
    assert 0 < stale_T.sum() < len(stale_T)


def replace_tokens(inputs, chosen_T):
    names = ("old_logprobs_T", "sampler_logprobs_T", "sequence_T")
    return replace(inputs, **{name: getattr(inputs, name)[chosen_T] for name in names})


def test_coupled_puts_the_sampler_in_place_of_the_old_policy():
    inputs = ragged_inputs(8)
    coupled = ours(inputs, GRPOConfig(correction="coupled"))
    by_hand = ours(replace(inputs, old_logprobs_T=inputs.sampler_logprobs_T), GRPOConfig(correction="none"))
    assert coupled[0] == by_hand[0]
    assert torch.equal(coupled[1], by_hand[1])


def test_decoupled_weighs_the_gradient_around_the_old_policy():
    inputs = ragged_inputs(9)
    _, decoupled_T, _ = ours(inputs, GRPOConfig(correction="decoupled", correction_cap=1.5))
    _, plain_T, _ = ours(inputs, GRPOConfig(correction="none"))
    weights = naive_weights(inputs, "decoupled", 1.5, 0.0)
    assert (decoupled_T - plain_T * torch.tensor(weights)).abs().max() < 1e-6
    assert 0 in weights


def test_the_metrics_by_hand():
    # old - sampler = ln 2, ln 1/2, ln 4 (stale), 0: weights 2, 0.5, 2 (cut), 1
    inputs = replace(
        ragged_inputs(lengths=(2, 2)),
        old_logprobs_T=torch.tensor([2.0, 0.5, 4.0, 1.0]).log(),
        sampler_logprobs_T=torch.zeros(4),
        staleness_T=torch.tensor([0, 0, 3, 0]),
    )
    correction = Correction("truncate", cap=2.0)
    stats = correction_stats(inputs, corrected(inputs, correction, correction))
    metrics = correction_metrics({name: value.item() for name, value in stats.items()}, 4)
    ln2 = math.log(2)
    assert metrics == pytest.approx(
        {
            "logprob_diff": (ln2 + ln2 + 2 * ln2 + 0) / 4,
            "kl_sampler": ((2 - 1 - ln2) + (0.5 - 1 + ln2) + (4 - 1 - 2 * ln2) + 0) / 4,  # u - 1 - ln u
            "ess": 5.5**2 / (4 * (4 + 0.25 + 4 + 1)),
            "corrected": 1 / 4,
            "stale": 1 / 4,
            "kl_sampler_stale": 4 - 1 - 2 * ln2,
            "corrected_stale": 1.0,
            "kl_sampler_fresh": ((2 - 1 - ln2) + (0.5 - 1 + ln2) + 0) / 3,
            "corrected_fresh": 0.0,
        },
        abs=1e-5,
    )


def test_the_metrics_of_an_objective_are_per_token_and_of_nothing_are_0():
    objective, inputs = Objective(GRPOConfig(entropy_coef=0.1)), ragged_inputs(10)
    sums = {name: value.item() for name, value in objective(inputs).stats.items()}
    metrics = objective.metrics(sums, 42)
    assert metrics["entropy"] == pytest.approx(inputs.entropy_T.mean().item(), abs=1e-5)
    assert metrics["entropy_coef"] == 0.1
    assert 0 < metrics["ess"] < 1
    assert objective.metrics({}, 0) == {"loss": 0.0, "clipped": 0.0, "kl": 0.0}
