"""Perturbing weights moves every tensor, and undoing it leaves every bit as it was."""

import pytest
import torch
from torch import nn

from grpo.policy.perturb import PERIOD, Part, Perturbation


def model_of(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(300, 400), "zero": nn.Linear(4, 5), "one": nn.LayerNorm(7)}).to(dtype)
    nn.init.zeros_(model["zero"].weight)
    model.experts = nn.Parameter(torch.randn(3, 8, 9).to(dtype))
    model.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
    model.a.weight.data[0, :5] = torch.tensor([0.0, -0.0, float("inf"), 1e-30, -3e30])
    return model


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone().view(torch.uint8) for name, one in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_trained_tensor_is_moved_and_put_back_to_the_bit(dtype):
    model = model_of(dtype)
    assert model.a.weight.numel() > PERIOD  # the pattern comes more than once
    before, perturbation = bits(model), Perturbation(dict(model.named_parameters()))
    assert Part("frozen") not in perturbation.parts
    perturbation.flip(perturbation.parts)
    perturbed = dict(model.named_parameters())
    assert {name for name, now in bits(model).items() if torch.equal(now, before[name])} == {"frozen"}
    moved = (perturbed["experts"].float() - before["experts"].view(dtype).view(3, 8, 9).float()).abs()
    assert moved.mean() > 0.1 * perturbed["experts"].float().abs().mean()
    assert perturbed["zero.weight"].unique().tolist() == [0.0, 0.0625]
    perturbation.flip(perturbation.parts)
    assert all(torch.equal(now, before[name]) for name, now in bits(model).items())


def test_one_expert_of_several_is_moved_alone():
    model = model_of(torch.float32)
    before, perturbation = model.experts.detach().clone(), Perturbation(dict(model.named_parameters()))
    parts = perturbation.stacked(Part("experts"))
    assert [str(part) for part in parts] == ["experts[0]", "experts[1]", "experts[2]"]
    perturbation.flip(parts[1:2])
    assert torch.equal(model.experts[0], before[0])
    assert torch.equal(model.experts[2], before[2])
    assert not torch.equal(model.experts[1], before[1])
    assert perturbation.stacked(Part("a.weight")) == [Part("a.weight")]


def test_a_tensor_that_lies_scattered_is_put_back_too():
    weight = nn.Parameter(torch.randn(5, 7).T)
    before, perturbation = weight.detach().clone(), Perturbation({"w": weight})
    perturbation.flip([Part("w")])
    assert not torch.equal(weight, before)
    perturbation.flip([Part("w")])
    assert torch.equal(weight, before)


def test_two_tensors_are_not_moved_alike():
    a, b = nn.Parameter(torch.ones(50)), nn.Parameter(torch.ones(50))
    perturbation = Perturbation({"a": a, "b": b})
    perturbation.flip(perturbation.parts)
    assert not torch.equal(a, b)
