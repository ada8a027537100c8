"""How far apart two correct computations of the same log-probs are: the noise of a model in its dtype, measured.

The model's own forward and its own logits are taken in several orders of summation: all rows at once and a few at a
time, by its own attention and by the plain one; and once with every block's output moved by one more rounding. What
they differ by says how far another correct computation may be away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.config import ModelError
from grpo.policy.load import FAILS, causal_lm
from grpo.policy.policy import Policy
from grpo.types import Sample

MULTIPLE = 5.0  # of the noise, that a correct computation stays within; what is wrong is off by far more


@dataclass(frozen=True, slots=True)
class Noise:
    """`logprobs_T`: the model's own, computed in `dtype`. `nats`: root mean square of what other orders differ by."""

    logprobs_T: Tensor
    nats: float
    dtype: torch.dtype
    plain_T: Tensor | None = None  # by plain attention, where that is not what the model's own attention computes

    @property
    def bound(self) -> float:
        """Root mean square of the difference that a correct computation may have."""
        return MULTIPLE * self.nats

    def difference(self, logprobs_T: Tensor) -> float:
        return rms(logprobs_T.float() - self.logprobs_T.float())

    def exceeded(self, logprobs_T: Tensor) -> str:
        """By how much the difference is too large; "" if it is not."""
        found = self.difference(logprobs_T)
        if found <= self.bound:  # NaN is no agreement
            return ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{found:.2g} nats, expected at most {self.bound:.2g} ({MULTIPLE:g} times the noise of {dtype})"


def measure_noise(policy: Policy, samples: Sequence[Sample], temperature: float = 1.0) -> Noise:
    """The policy's own log-probs of the samples, one after the other, and their noise.

    Raises ModelError if they are not numbers, or its forward fails.
    """
    device = next(policy.parameters()).device

    def own(some: Sequence[Sample], rounded: bool = False) -> Tensor:
        with rounded_once_more(policy.model) if rounded else nullcontext():
            return policy.own_logprobs(policy.batch(some, [1.0] * len(some), device), temperature).float()

    try:
        whole_T = own(samples)
    except FAILS as error:
        kind = causal_lm(policy.model).config.model_type
        raise ModelError(
            f"model.path: the forward of {kind} fails on a few tokens ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}). Expected a causal language model that needs tokens alone, "
            "whose config.json fits together"
        ) from error
    if not torch.isfinite(whole_T).all():
        raise ModelError("model.path: its log-probs are not finite numbers; look at model.dtype, or at the checkpoint")
    least = torch.finfo(torch.float32).eps * max(1.0, rms(whole_T))  # they are fp32, whatever the model computes in
    nats = max(rms(own(samples, rounded=True) - whole_T), least)
    if (plain_T := _by_plain_attention(policy, lambda: own(samples))) is not None:
        if policy.dtype == torch.float32 and not rms(plain_T - whole_T) <= MULTIPLE * nats:
            return Noise(whole_T, nats, policy.dtype, plain_T)
        nats = max(nats, rms(plain_T - whole_T))
    return Noise(whole_T, nats, policy.dtype)


def _by_plain_attention(policy: Policy, compute: Callable[[], Tensor]) -> Tensor | None:
    """None if it is the model's own, or there is none."""
    lm = causal_lm(policy.model)
    before = lm.config._attn_implementation
    if before == "eager":
        return None
    try:
        lm.set_attn_implementation("eager")
        return compute()
    except FAILS:
        return None
    finally:
        lm.set_attn_implementation(before)


@contextmanager
def rounded_once_more(model: nn.Module, eps: float | None = None) -> Iterator[None]:
    """Within it every block, and the output layer, returns its numbers changed by a rounding of their dtype.

    `eps`: relative size of the rounding; None: that of the dtype.
    """
    layers = [*(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))]
    layers += [layer] if (layer := causal_lm(model).get_output_embeddings()) is not None else []
    generator = torch.Generator()

    def moved(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        generator.manual_seed(0)
        direction = torch.rand(first.shape, generator=generator).to(first.device) * 2 - 1
        relative = torch.finfo(first.dtype).eps if eps is None else eps
        first = (first.float() * (1 + relative * direction)).to(first.dtype)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    hooks = [layer.register_forward_hook(moved) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()
