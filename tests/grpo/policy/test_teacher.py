"""On-policy distillation: a token's advantage is how much likelier the teacher finds it than the policy did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grpo.config import GRPOConfig
from grpo.policy.learner import Learner
from grpo.policy.update import TrainBatch
from grpo.signal.advantage import load_advantage
from grpo.types import RewardsOfGroup, Sample
from tests.grpo.policy.test_update import batch, naive_logprobs, tiny_model, weights


def logprobs_with_gradient(model: nn.Module, sample: Sample) -> torch.Tensor:
    ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
    logits_LV = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits_LV, -1).gather(1, torch.tensor(sample.completion_ids)[:, None]).squeeze(1)


def naive_gradient(model: nn.Module, teacher: nn.Module, train: TrainBatch) -> torch.Tensor:
    """Token by token: reinforce, whose gradient is grpo's with one update."""
    loss = torch.zeros(())
    for sample, weight in zip(train.samples, train.weights, strict=True):
        mine_T, theirs_T = logprobs_with_gradient(model, sample), naive_logprobs(teacher, sample)
        for t in range(len(sample.completion_ids)):
            advantage = (theirs_T[t] - mine_T[t]).detach()
            loss = loss - weight * advantage * mine_T[t]
    model.zero_grad()
    loss.backward()
    return nn.utils.parameters_to_vector([p.grad for p in model.parameters()]).detach()


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "gspo_token", "reinforce"])
def test_the_gradient_is_that_of_a_loop_over_tokens_and_no_reward_enters_it(loss: str, packing: bool) -> None:
    model, teacher, train = tiny_model(0), tiny_model(1), batch()
    expected = naive_gradient(copy.deepcopy(model), teacher, train)
    config = GRPOConfig(
        loss=loss, advantage="teacher", teacher="any", correction="none", max_grad_norm=1e9, packing=packing
    )
    learner = Learner(config, 1.0, model, copy.deepcopy(teacher))
    learner.update(1, train)
    got = nn.utils.parameters_to_vector([p.grad for p in model.parameters()])
    torch.testing.assert_close(got, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-4)
    rewarded = TrainBatch(
        [Sample(s.prompt_ids, s.completion_ids, s.sampler_logprobs, 9.0) for s in train.samples], train.weights
    )
    again = tiny_model(0)
    other = Learner(config, 1.0, again, copy.deepcopy(teacher))
    other.update(1, rewarded)
    assert torch.equal(weights(again), weights(model))


def test_a_policy_that_is_its_teacher_stays_what_it_is() -> None:
    model = tiny_model(0)
    config = GRPOConfig(advantage="teacher", teacher="any", correction="none", learning_rate=1e-2)
    before = weights(model)
    metrics = Learner(config, 1.0, model, tiny_model(0)).update(1, batch())
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] < 1e-5
    assert (weights(model) - before).abs().max() < 1e-2  # Adam scales rounding up to steps of the learning rate


def test_steps_draw_the_policy_to_its_teacher() -> None:
    model, teacher = tiny_model(0), tiny_model(1)
    config = GRPOConfig(advantage="teacher", teacher="any", correction="none", learning_rate=1e-3)
    learner = Learner(config, 1.0, model, copy.deepcopy(teacher))
    kept = weights(teacher)
    gaps = []
    for step in range(1, 4):
        gaps.append(learner.update(step, batch())["kl"])
    assert torch.equal(weights(teacher), kept)
    assert len(gaps) == 3


def test_an_adapter_has_its_teacher_beside_it() -> None:
    from peft import LoraConfig, get_peft_model

    teacher = tiny_model(1)
    policy = get_peft_model(tiny_model(0), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    config = GRPOConfig(advantage="teacher", teacher="any", correction="none")
    metrics = Learner(config, 1.0, policy, teacher).update(1, batch())
    assert metrics["kl"] > 0.1


def test_every_scored_completion_is_trained_on() -> None:
    group = RewardsOfGroup((1.0, None, 1.0), {"accuracy": (1.0, None, 1.0)}, {"accuracy": 1.0})
    assert load_advantage("teacher")([group]) == [[1.0, None, 1.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage": "teacher"}, "teacher: advantage: teacher needs one, a folder or a hub id"),
        ({"teacher": "some/model"}, "teacher: got 'some/model', but advantage: auto has none"),
        ({"advantage": "teacher", "teacher": "x", "kl_coef": 0.1}, "kl_coef: got 0.1, but with advantage: teacher"),
        ({"advantage": "teacher", "teacher": "x", "control": "random"}, "control: got random"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPOConfig.model_validate(settings)
