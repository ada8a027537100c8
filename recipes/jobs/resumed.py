"""Which settings a resumed run may have changed: those that do not change what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Where it trains and samples, what is kept and said of it, and when; a name with a dot at its end is a whole section.
MAY_CHANGE = (
    "train.processes",
    "train.replicas",
    "train.gpus",
    "train.threads",
    "train.max_restarts",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.eval_every",
    "train.trackers",
    "rollout.server.",
    "cluster.",
)
SERVERS_ONLY = "rollout.max_sequences"  # a batch of the in-process engine, which samples in the order of its batches


def changed_otherwise(
    changed: Mapping[str, tuple[Any, Any]], overrides: Sequence[str], engine: str
) -> dict[str, tuple[Any, Any]]:
    """Of the changed keys, with their values there and here, those that may not be; train.steps may by --set."""
    may = (*MAY_CHANGE, SERVERS_ONLY) if engine == "vllm" else MAY_CHANGE
    if any(override.startswith("train.steps=") for override in overrides):
        may = (*may, "train.steps")
    return {key: values for key, values in changed.items() if not any(_covers(name, key) for name in may)}


def changes_nothing(key: str) -> bool:
    """Whether what is computed is the same whatever the setting's value."""
    return any(_covers(name, key) for name in MAY_CHANGE)


def _covers(name: str, key: str) -> bool:
    """A list or a mapping is compared item by item: train.trackers.0."""
    return key == name or key.startswith(name if name.endswith(".") else f"{name}.")


def in_words() -> str:
    keys = [name.removesuffix(".") for name in (*MAY_CHANGE, SERVERS_ONLY)]
    return f"train.steps, by --set, {', '.join(keys)} (the last with engine: vllm)"
