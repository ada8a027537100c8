"""The policy loss that `train.loss` names: a built-in, or a function of the user's own.

One's own is called with `LossInputs` and train.loss_args, and returns the loss of each token, shape (T,), before
normaliser and correction: smaller is better, with its gradient in `logprobs_T`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses.cispo import cispo
from grpo.losses.clipped import clipped
from grpo.losses.gspo import gspo, gspo_token
from grpo.losses.reinforce import reinforce
from grpo.losses.sapo import sapo
from grpo.losses.types import LossError, LossInputs, TokenLoss
from rewards.user.loading import Purpose, load_function, user_code

PolicyLoss = Callable[[LossInputs], TokenLoss]
LOSS = Purpose("train.loss", LossError)


def _clipped(config: GRPOConfig) -> PolicyLoss:
    return partial(clipped, clip_low=config.clip_low, clip_high=config.clip_high, clip_max=config.clip_max)


def _banded(function: Callable[..., TokenLoss]) -> Callable[[GRPOConfig], PolicyLoss]:
    return lambda config: partial(function, clip_low=config.clip_low, clip_high=config.clip_high)


def _sapo(config: GRPOConfig) -> PolicyLoss:
    return partial(sapo, tau_positive=config.sapo_tau_positive, tau_negative=config.sapo_tau_negative)


BUILT_IN: Mapping[str, Callable[[GRPOConfig], PolicyLoss]] = {
    "grpo": _clipped,
    "bnpo": _clipped,
    "dr_grpo": _clipped,
    "dapo": _clipped,
    "cispo": _banded(cispo),
    "gspo": _banded(gspo),
    "gspo_token": _banded(gspo_token),
    "sapo": _sapo,
    "reinforce": lambda config: reinforce,
}


def policy_loss_of(config: GRPOConfig) -> PolicyLoss:
    """The function of `config.loss`. Raises LossError if there is none."""
    if config.loss in BUILT_IN:
        return BUILT_IN[config.loss](config)
    function = load_function(config.loss, LOSS)
    return partial(_own, config.loss, partial(function, **config.loss_args), function)


def _own(name: str, call: Callable[[LossInputs], Any], function: Callable[..., Any], inputs: LossInputs) -> TokenLoss:
    with user_code(name, function, "computing the loss", LOSS):
        loss_T = call(inputs)
    _check(name, loss_T, len(inputs.logprobs_T))
    return TokenLoss(loss_T, torch.zeros_like(loss_T, dtype=torch.bool))


def _check(name: str, loss_T: Any, tokens: int) -> None:
    if not isinstance(loss_T, Tensor):
        raise LossError(f"train.loss {name!r} returned {type(loss_T).__name__}, expected a tensor of shape ({tokens},)")
    if loss_T.shape != (tokens,):
        raise LossError(
            f"train.loss {name!r} returned shape {tuple(loss_T.shape)}, expected ({tokens},): the loss of each token; "
            "the normaliser sums it"
        )
    if not loss_T.requires_grad:
        raise LossError(
            f"train.loss {name!r} returned a tensor without gradient, expected one computed from inputs.logprobs_T "
            "(not from its .detach() or .item())"
        )
    wrong_T = ~loss_T.detach().isfinite()
    if wrong_T.any():
        place = int(wrong_T.nonzero()[0])
        raise LossError(
            f"train.loss {name!r} returned {loss_T[place].item()} for token {place} ({int(wrong_T.sum())} of {tokens} "
            "tokens are NaN or infinite), expected finite values"
        )
