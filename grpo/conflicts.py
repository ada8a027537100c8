"""Settings of training that do not go together: a sentence for each, what is wrong and what to use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grpo.names import NORMALISERS, CorrectionKind

# Of grpo/config.py, which imports this module: a TrainSettings, a GRPOConfig.
Config = Any


def process_conflicts(config: Config) -> Iterator[str]:
    if config.processes % config.replicas:
        yield f"replicas: got {config.replicas}, expected a divisor of processes ({config.processes})"
    if config.gpus and len(config.gpus) != config.processes:
        yield f"gpus: got {config.gpus}, expected one for each process (processes: {config.processes})"
    if config.dropout and config.gradient_checkpointing:
        yield "dropout: layers that are recomputed are so without dropout; use gradient_checkpointing: false"
    if config.backend == "trl" and config.processes > 1:
        yield f"processes: got {config.processes}, but backend: trl trains in one; use 1, or backend: zero"


def loss_conflicts(config: Config) -> Iterator[str]:
    yield from process_conflicts(config)
    if config.loss_args and config.loss in NORMALISERS:
        yield f"loss_args: {config.loss} takes none; they are for a loss of your own (loss: file.py:function)"
    if config.clip_max is not None and config.loss not in ("grpo", "bnpo", "dr_grpo", "dapo"):
        yield f"clip_max: {config.loss} has no two-sided clip; use it with grpo, bnpo, dr_grpo or dapo"
    if config.clip_max is not None and config.clip_max <= 1 + config.clip_high:
        yield f"clip_max: got {config.clip_max}, expected more than 1 + clip_high ({1 + config.clip_high})"
    distils = config.advantage == "teacher"
    if distils and config.teacher is None:
        yield "teacher: advantage: teacher needs one, a folder or a hub id"
    if config.teacher is not None and not distils:
        yield f"teacher: got {config.teacher!r}, but advantage: {config.advantage} has none; use advantage: teacher"
    if distils and config.kl_coef:
        yield f"kl_coef: got {config.kl_coef}, but with advantage: teacher it is the teacher that is drawn to; use 0"
    if distils and config.control != "none":
        yield f"control: got {config.control}, but advantage: teacher is made of no rewards; use none"
    if config.loss == "reinforce" and config.updates_per_batch > 1:
        yield (
            f"updates_per_batch: got {config.updates_per_batch}, but loss: reinforce has no ratio, so only its first "
            "update is on-policy; use 1, or another loss"
        )
    if config.kl_coef and config.kl_estimator == "k1" and config.kl_place == "loss" and not config.kl_corrected:
        yield (
            "kl_estimator: the gradient of k1 in the loss is 0 on average; use k2 or k3, kl_corrected: true, or "
            "kl_place: reward"
        )
    if config.kl_corrected and config.kl_place == "reward":
        yield "kl_corrected: only a KL in the loss can be corrected; use kl_place: loss, or kl_corrected: false"
    if config.entropy_target is not None and config.entropy_coef > config.entropy_coef_max:
        yield f"entropy_coef: got {config.entropy_coef}, expected at most entropy_coef_max ({config.entropy_coef_max})"
    yield from _band_conflicts("correction", config.correction, config.correction_floor, config.correction_cap)
    cap = config.correction_cap if config.stale_cap is None else config.stale_cap
    yield from _band_conflicts("stale", config.stale_correction, config.stale_floor or 0.0, cap)


def _band_conflicts(cause: str, kind: CorrectionKind | None, floor: float, cap: float) -> Iterator[str]:
    if floor >= cap:
        yield f"{cause}_floor: got {floor}, expected less than {cause}_cap ({cap})"
    if floor and kind in ("none", "decoupled", "coupled"):
        yield f"{cause}_floor: {kind} has no lower bound; use mask or truncate, or {cause}_floor: 0"
