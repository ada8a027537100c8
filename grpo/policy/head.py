"""How a model makes logits from what its decoder returns: measured on the model itself.

    z = c tanh(s (W h + b) / c)      s: scale (Cohere, Granite, Falcon-H1); c: cap (Gemma 2); without one s (W h + b)

The chunked head (logprobs.py) computes this, and nothing else. Whether a model does is asked of its own forward: its
head is given hidden states of chosen sizes, and what comes out of the model is compared with what comes out of the
head. A model that does something else keeps its own logits: all of them are held then, tokens x vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from grpo.policy.load import causal_lm
from grpo.policy.logprobs import Head

SMALL, LARGE, MIDDLE = 1e-3, 1e5, 50.0  # largest output of the head: far below, far above and about any cap
ROUNDINGS = 8  # of the logits' dtype: what the model's own way, or what is measured of it, may differ by


class OtherHeadError(ValueError):
    """The model's logits are not of this form; the message says why."""


@torch.no_grad()
def measure_head(model: nn.Module, input_ids: Tensor) -> Head:
    """The head of `model`. `input_ids`: any few tokens, (1, T). Raises OtherHeadError."""
    lm = causal_lm(model)
    layer = lm.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise OtherHeadError(f"its output layer is {type(layer).__name__}, expected Linear")
    tried = _Tried(lm, layer, input_ids)
    hidden, _, _ = tried(None)
    decoded = lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state.float()
    if hidden.shape != decoded.shape or not torch.allclose(hidden, decoded, atol=tried.noise(hidden), rtol=0):
        raise OtherHeadError("its output layer is not given what its decoder returns")
    _, output, logits = tried(SMALL)
    if not (power := (output * output).sum().item()):
        raise OtherHeadError("its output layer returns zeros")
    scale = _snapped((output * logits).sum().item() / power, tried.eps, lm)
    _, output, logits = tried(LARGE)
    largest = logits.abs().max().item()
    cap = _snapped(largest, tried.eps, lm) if largest < 0.5 * abs(scale) * output.abs().max().item() else None
    head = Head(scale, cap)
    for size in (MIDDLE, MIDDLE / abs(scale)):
        _, output, logits = tried(size)
        if not (head(output) - logits).abs().max().item() <= tried.noise(logits):
            raise OtherHeadError("its logits are another function of the output layer than a scale and a cap")
    return head


class _Tried:
    """(what the output layer was given, what it returned, the model's logits), in fp32, in a forward of the model.

    Called with the size that the output layer's largest value is to have: its input is multiplied.
    """

    def __init__(self, lm: nn.Module, layer: nn.Linear, input_ids: Tensor) -> None:
        self._lm, self._layer, self._input_ids = lm, layer, input_ids
        self._largest = 1.0
        self.eps = torch.finfo(layer.weight.dtype).eps

    def noise(self, values: Tensor) -> float:
        """What rounding may change of them."""
        return ROUNDINGS * self.eps * max(values.abs().max().item(), torch.finfo(torch.float32).tiny)

    def __call__(self, size: float | None) -> tuple[Tensor, Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return args if size is None else (args[0] * (size / self._largest), *args[1:])

        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen.append((args[0].float(), output.float()))

        hooks = (self._layer.register_forward_pre_hook(before), self._layer.register_forward_hook(after))
        try:
            logits = self._lm(input_ids=self._input_ids, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        if len(seen) != 1:
            raise OtherHeadError(f"its forward calls its output layer {len(seen)} times, expected once")
        hidden, output = seen[0]
        if output.shape != logits.shape:
            raise OtherHeadError(f"it makes logits {tuple(logits.shape)} of an output {tuple(output.shape)}")
        if size is None:
            self._largest = max(output.abs().max().item(), torch.finfo(torch.float32).tiny)
        return hidden, output, logits.float()


def _snapped(value: float, eps: float, lm: Any) -> float:
    """1, the configuration's number or one over it, if it is that but for rounding; else itself."""
    near = ROUNDINGS / 2 * eps * abs(value)
    numbers = [1.0, *_numbers(lm.config.get_text_config().to_dict())]
    found = [number for number in numbers if abs(number - value) <= near]
    return 1.0 if 1.0 in found else min(found, key=lambda number: abs(number - value), default=value)


def _numbers(config: dict[str, Any]) -> Iterator[float]:
    for value in config.values():
        if isinstance(value, int | float) and not isinstance(value, bool) and value:
            yield from (float(value), 1 / value)
