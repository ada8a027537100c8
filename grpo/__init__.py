"""Group Relative Policy Optimization. Exported names load torch when they are first used, not on import."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo.config import GRPOConfig as GRPOConfig
    from grpo.losses.objective import policy_loss as policy_loss
    from grpo.signal.advantage import group_advantages as group_advantages
    from grpo.trainer import GRPOTrainer as GRPOTrainer

# As vLLM has it by default. TRL, once imported, sets it to ERROR if it is not set: the logs of the servers that this
# process starts would say nothing.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")

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


def _import_rewards() -> None:
    """A `rewards.py` beside the program that imports us would hide our `rewards`, which is needed here.

    Raises ImportError if the program has imported such a file before: one name cannot be both.
    """
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    try:
        found = import_module("rewards")
    finally:
        sys.path.remove(str(root))
    if not hasattr(found, "__path__") or Path(found.__path__[0]).resolve() != root / "rewards":
        raise ImportError(
            f"`rewards` is {found.__file__} in this program, not the package of Zero in {root}, which `grpo` needs: "
            "rename that file"
        )


_import_rewards()
