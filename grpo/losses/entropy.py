"""Entropy: a bonus for it, a target that steers the bonus, and policy gradients for uncertain tokens only.

Bonus: loss_t loses coef * H_t, H_t the entropy of pi at token t; weighed by the loss's normaliser, like every term
(TRL's is the token mean whatever the loss: the same for dapo and bnpo).

Target (Skywork-OR1, arXiv 2505.22312): the coefficient c grows by a fixed amount after a step whose mean
entropy was at most the target, shrinks after any other, and is applied only while entropy is at most the target.
Departure: the last step's entropy decides, as in TRL, since this step's is known only after its forward. The first
step has none and gets no bonus.

High-entropy tokens (arXiv 2506.01939): only the top share of tokens by entropy keep a policy gradient; the
normaliser still counts all. The threshold is taken over the whole optimizer batch before its first update and is
an input here, so micro-batches change nothing; it costs a forward without gradient. Departures: of the trained tokens
(groups without advantage, which DAPO would resample, are not counted), and measured once, not again at each update.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class EntropyCoefficient:
    """The bonus's coefficient: fixed, or steered to `target`.

    `state` is the coefficient and the last entropy, as a tensor of two; a resumed run puts it back in place.
    """

    def __init__(self, coef: float, target: float | None = None, step: float = 0.005, maximum: float = 1.0) -> None:
        self._target, self._step, self._maximum = target, step, maximum
        self.state = torch.tensor([coef, math.inf], dtype=torch.float64)

    @property
    def value(self) -> float:
        """What this step's entropy is multiplied with."""
        coef, entropy = self.state.tolist()
        return coef if self._target is None or entropy <= self._target else 0.0

    def observe(self, entropy: float) -> None:
        """`entropy`: mean over the tokens of the step that was just trained."""
        if self._target is None:
            return
        change = self._step if entropy <= self._target else -self._step
        coef = min(max(self.state[0].item() + change, 0.0), self._maximum)
        self.state.copy_(torch.tensor([coef, entropy], dtype=torch.float64))


def entropy_threshold(entropy_T: Tensor, share: float) -> float:
    """The least entropy among the top `share` of the optimizer batch's tokens; ties with it are in as well.

    Counts as TRL's quantile does: of n tokens, those from place ceil((1 - share) (n - 1)) upwards.
    """
    # rounded: (1 - 0.2) * 5 must be 4, not the next number above it
    place = math.ceil(round((1 - share) * (len(entropy_T) - 1), 6))
    return torch.kthvalue(entropy_T.detach().float(), place + 1).values.item()
