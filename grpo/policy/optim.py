"""AdamW on fp32 master weights, and the learning-rate schedules.

A bf16 weight has 8 bits of mantissa: it cannot take a step that is smaller than 1/256 of itself, so at a
learning rate of 1e-6 it would never move. The masters take the steps; the bf16 weights are rounded copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from grpo.config import GRPOConfig
from grpo.policy.shard.shard import gathered


def learning_rate(config: GRPOConfig, step: int) -> float:
    """The learning rate of step `step` (counted from 1)."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps - 1) / max(config.steps - config.warmup_steps, 1)
    factor = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * factor


class MasterAdamW:
    """AdamW whose state and weights are fp32, for parameters of any dtype.

    Gradients move to the masters as soon as a micro-batch's backward has produced them, so they are
    summed over micro-batches in fp32. An fp32 parameter is its own master.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **adamw: Any) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
        self._adamw = torch.optim.AdamW(self.masters, lr=0.0, fused=True, **{"weight_decay": 0.0, **adamw})
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                parameter.register_post_accumulate_grad_hook(_into(master))

    def zero_grad(self) -> None:
        """Zero, not None: a step without any signal is a step of gradient 0, as in the plain computation."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            else:
                master.grad.zero_()

    def step(self, lr: float, max_grad_norm: float) -> float:
        """Clip, step, round the masters into the parameters. Returns the gradient's norm before the clip."""
        norm = gathered(nn.utils.clip_grad_norm_(self.masters, max_grad_norm), torch.float32).item()
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm}; expected a finite number. Lower train.learning_rate, or use "
                "model.dtype: float32 to see whether precision is the cause"
            )
        self._set_rate(lr)
        self._adamw.step()
        self._round()
        return norm

    def _set_rate(self, lr: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Masters and moments, themselves, by the place of their parameter; moments are made if there are none yet."""
        if not self._adamw.state:
            self.zero_grad()
            self._set_rate(0.0)
            self._adamw.step()  # of gradient and rate 0: it makes the moments and changes nothing
            for state in self._adamw.state.values():
                state["step"].zero_()
        found = {f"masters.{i}": master.detach() for i, master in enumerate(self.masters)}
        for i, master in enumerate(self.masters):
            found |= {f"{name}.{i}": tensor for name, tensor in self._adamw.state[master].items()}
        return found

    def loaded(self) -> None:
        """Call it when `tensors` have been overwritten."""
        self._round()


def _into(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return move
