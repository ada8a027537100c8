"""fp32 masters under low-precision weights."""

import pytest
import torch
from torch import nn

from grpo.config import GRPOConfig
from grpo.policy.optim import MasterAdamW, learning_rate


def test_steps_too_small_for_bf16_add_up_in_the_master_and_reach_the_weight():
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))  # bf16 near 1 has steps of 2^-7 below, 2^-8 ...
    optimizer = MasterAdamW([weight])
    for _ in range(100):
        optimizer.zero_grad()
        (weight * 1.0).sum().backward()
        optimizer.step(lr=1e-4, max_grad_norm=10.0)
    # Adam moves by lr a step under a constant gradient: 1 - 100 * 1e-4 = 0.99
    assert optimizer.masters[0].item() == pytest.approx(0.99, abs=1e-4)
    assert weight.item() == pytest.approx(0.99, abs=2**-8)


def test_gradients_of_micro_batches_are_summed_in_fp32():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW([weight])
    optimizer.zero_grad()
    for gradient in (256.0, 0.5, 0.5):  # in bf16, 256 + 0.5 is 256
        (weight * gradient).sum().backward()
    assert optimizer.masters[0].grad.item() == 257.0


def test_fp32_weights_step_exactly_as_torch_adamw_does():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = MasterAdamW(ours.parameters(), betas=(0.9, 0.95))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(5):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        ours(x).square().mean().backward()
        optimizer.step(lr=1e-2, max_grad_norm=1e9)
        reference.zero_grad()
        theirs(x).square().mean().backward()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)


def test_a_gradient_that_is_not_finite_is_refused_before_it_reaches_the_weights():
    weight = nn.Parameter(torch.ones(1))
    optimizer = MasterAdamW([weight])
    optimizer.zero_grad()
    (weight * float("nan")).sum().backward()
    with pytest.raises(FloatingPointError, match="gradient's norm is nan"):
        optimizer.step(lr=1.0, max_grad_norm=1.0)
    assert weight.item() == 1.0


def test_schedules_by_hand():
    config = GRPOConfig(steps=12, warmup_steps=2, learning_rate=1.0, schedule="linear")
    assert [learning_rate(config, step) for step in (1, 2, 3, 8, 12)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.1])
    cosine = GRPOConfig(steps=10, learning_rate=1.0, schedule="cosine")
    assert [learning_rate(cosine, step) for step in (1, 6)] == pytest.approx([1.0, 0.5])
