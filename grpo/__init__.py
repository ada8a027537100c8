"""Group Relative Policy Optimization. Exported names load torch when they are first used, not on import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo.config import GRPOConfig as GRPOConfig
    from grpo.losses.objective import policy_loss as policy_loss
    from grpo.signal.advantage import group_advantages as group_advantages
    from grpo.trainer import GRPOTrainer as GRPOTrainer

_EXPORTS = {
    "GRPOConfig": "grpo.config",
    "GRPOTrainer": "grpo.trainer",
    "group_advantages": "grpo.signal.advantage",
    "policy_loss": "grpo.losses.objective",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'grpo' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
