"""The policy that a KL is measured against.

adapter off   with an adapter: the model without it, for nothing
fixed         the model that the run started from, a second copy of it
synced        that copy, overwritten with the policy after every `sync_every` steps: GRPO's outer iteration
              (DeepSeekMath, arXiv 2402.03300, algorithm 1), TR-DPO's hard update (arXiv 2404.09656)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Reference:
    """
    Args:
        model: the policy, adapted by peft if `frozen` is None.
        frozen: the second copy. `sync` overwrites it.
        sync_every: 0 is never.
    """

    def __init__(self, model: nn.Module, frozen: nn.Module | None = None, sync_every: int = 0) -> None:
        if sync_every and frozen is None:
            raise ValueError("a reference that is synced needs a copy of the model, got none")
        self._model, self._frozen, self._sync_every = model, frozen, sync_every

    @contextmanager
    def policy(self) -> Iterator[nn.Module]:
        """The reference in evaluation mode, for forwards without gradient."""
        with torch.no_grad():
            if self._frozen is not None:
                yield self._frozen.eval()
                return
            training = [module for module in self._model.modules() if module.training]
            self._model.eval()
            with self._model.disable_adapter():  # type: ignore[operator]
                yield self._model
            for module in training:
                module.training = True

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Call it with each finished step."""
        if self._frozen is None or not self._sync_every or step % self._sync_every:
            return
        for kept, trained in zip(self._frozen.parameters(), self._model.parameters(), strict=True):
            kept.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """Empty for a reference that the start of the run makes again."""
        return dict(self._frozen.state_dict()) if self._frozen is not None and self._sync_every else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state and self._frozen is not None:
            self._frozen.load_state_dict(state)
