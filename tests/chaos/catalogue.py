"""The episodes: at least 40 seeded faults over both engines, staleness, LoRA and evaluation.

Several faults in one episode share its starts: each costs one attempt more.
"""

from __future__ import annotations

from tests.chaos import evaluation as e
from tests.chaos import faults as f
from tests.chaos import training as t
from tests.chaos.episode import Episode, Job, Strike
from tests.chaos.faults import KILL, killed_then, of_newest
from tests.chaos.moments import (
    BEFORE,
    IMPORTING,
    LOADING,
    REPORTING,
    STARTING,
    Moment,
    Stored,
    measuring,
    sampling,
    saving,
    sending,
    training,
)
from tests.checkpoints import STATE, STATE_FILE


def episode(job: Job, *strikes: tuple[f.Fault, Moment | Stored]) -> Episode:
    return Episode(job, tuple(Strike(*strike) for strike in strikes))


def spoilt(file: str, *harms: f.Harm) -> list[tuple[f.Fault, Moment]]:
    """At step 3, when there are two checkpoints, the newest loses a file; the run goes on from the one before."""
    faults = [killed_then(f"{harm.__name__} {file}", of_newest(file, harm), "step-000002") for harm in harms]
    return [(fault, sampling(3)) for fault in faults]


def in_records(file: str, *damages: tuple[str, f.Damage]) -> list[tuple[f.Fault, Moment]]:
    """What a killed run wrote down, damaged at steps 2, 3 and 4."""
    faults = [killed_then(f"{name} {file}", damage, file) for name, damage in damages]
    return [(fault, sampling(step)) for step, fault in enumerate(faults, 2)]


QUICK = [
    episode(
        t.PLAIN,
        (KILL, sampling(2)),
        (killed_then("truncate the state", of_newest(STATE_FILE, f.truncate), "step-000002"), sampling(3)),
        (f.TERM, training(4)),
    ),
]

IN_PROCESS = [
    *QUICK,
    episode(t.PLAIN, (KILL, IMPORTING), (KILL, LOADING), (KILL, sending(0)), (KILL, BEFORE)),
    episode(
        t.PLAIN, (KILL, sampling(1)), (KILL, training(2)), (KILL, sending(3)), (KILL, saving(4)), (KILL, REPORTING)
    ),
    episode(t.SPARSE, (f.TERM, training(1)), (f.HUP, sampling(2)), (f.INT, training(3)), (f.TERM_TWICE, saving(4))),
    episode(t.PLAIN, (f.TERM, LOADING), (f.INT, STARTING), (f.HUP, BEFORE), (f.INT, measuring(2))),
    episode(t.PLAIN, *spoilt(STATE_FILE, f.flip, f.empty, f.delete)),
    episode(t.PLAIN, *spoilt("trainer.json", f.truncate, f.delete, f.other_json), *spoilt(".", f.clear)),
    episode(t.PLAIN, *spoilt("model.safetensors", f.truncate, f.delete)),
    episode(t.PLAIN, (killed_then("truncate every state", f.damage_all, may_refuse=True), sampling(4))),
    episode(
        t.PLAIN,
        *in_records(
            "metrics.jsonl",
            ("half a line more in", f.half_a_line("metrics.jsonl")),
            ("cut the last line of", f.cut_last_line("metrics.jsonl")),
            ("zeros in", f.no_line("metrics.jsonl")),
        ),
    ),
    episode(
        t.PLAIN,
        *in_records(
            "evaluations.jsonl",
            ("half a line more in", f.half_a_line("evaluations.jsonl")),
            ("cut the last line of", f.cut_last_line("evaluations.jsonl")),
        ),
    ),
    episode(t.PLAIN, *in_records("rollouts", *((harm.__name__, f.rollouts(harm)) for harm in (f.truncate, f.delete)))),
    episode(t.PLAIN, (f.FILL, training(2)), (f.FILL, saving(3))),
    episode(t.PLAIN, (f.SECOND_RUN, sampling(2)), (f.PAUSE, training(3))),
    episode(t.rewarded("brevity", False, timeout=3), (f.KILL_REWARD, sampling(2)), (f.STOP_REWARD, sampling(3))),
    episode(t.rewarded("daemon"), (KILL, sampling(3))),
    episode(t.rewarded("double_fork"), (f.TERM, sampling(3))),
    episode(t.rewarded("hang", False, timeout=2)),
    episode(t.rewarded("surrogate")),
    episode(t.rewarded("hostile_answers", timeout=30)),
    episode(t.LORA_MERGED, (KILL, training(2)), *spoilt(STATE_FILE, f.flip), (f.INT, saving(4))),
    episode(t.REFILL, (KILL, sampling(2)), (f.HUP, training(3))),
]

RANKS = [
    episode(t.RANKS, (f.KILL_FOLLOWER, sampling(2)), (f.KILL_LEADER, training(3)), (f.KILL_FOLLOWER, saving(4))),
    episode(t.RANKS, (KILL, sampling(2)), (f.TERM, training(3)), (f.KILL_LEADER, sampling(4))),
    episode(t.RANKS, (KILL, LOADING), *spoilt(f"{STATE}/.metadata", f.flip), (f.HUP, sampling(4))),
]

LINES = "generations.jsonl"
TORN = killed_then(f"half a line more in {LINES}", f.half_a_line(LINES))
CUT = killed_then(f"cut the last line of {LINES}", f.cut_last_line(LINES))
ZEROS = killed_then(f"zeros in {LINES}", f.no_line(LINES), may_refuse=True)

QUICK_EVALUATIONS = [
    episode(e.ATTACHED, (KILL, Stored(10)), (TORN, Stored(25)), (f.INT, Stored(40))),
]

EVALUATIONS = [
    *QUICK_EVALUATIONS,
    episode(e.ATTACHED, (f.TERM, Stored(15)), (f.HUP, Stored(30)), (CUT, Stored(45))),
    episode(e.ATTACHED, (ZEROS, Stored(30))),
    episode(e.ATTACHED, (f.LOSE_SERVER, Stored(20)), (f.PAUSE, Stored(40))),
    episode(e.ATTACHED, (f.SECOND_RUN, Stored(10))),
    episode(e.ATTACHED, (f.FILL, Stored(20))),
    episode(e.HOSTILE_ANSWERS, (KILL, Stored(30))),
    episode(e.OWN_SERVER, (f.KILL_ENGINE, Stored(20)), (KILL, Stored(50)), (f.TERM, Stored(80))),
]

# Each fault at a step of its own: to start a server again takes the rest of the step before.
WITH_SERVER = [
    episode(
        t.VLLM,
        (f.KILL_ENGINE, saving(1)),  # while the samples of step 2 are being drawn
        (f.KILL_ENGINE, sending(3, 0.05)),
        (f.KILL_API, sampling(4)),
        (f.KILL_API, sending(5, 0.05)),
        (f.KILL_ENGINE, training(6)),
    ),
    episode(
        t.VLLM,
        (f.STOP_ENGINE, saving(1)),
        (f.STOP_API, sampling(3)),
        (f.STOP_ENGINE, sending(4, 0.05)),
        (f.STOP_API, sending(6, 0.05)),
    ),
    episode(
        t.VLLM, (KILL, Moment(STARTING.text, 40.0)), (KILL, sampling(2)), (f.TERM, training(4)), (f.HUP, sending(6))
    ),
    episode(
        t.VLLM,
        (f.KILL_WATCHER, sampling(2)),
        (f.KILL_INNER_WATCHER, sampling(4)),
        (f.KILL_WATCHERS, training(6)),
        (f.KILL_RUN_AND_WATCHER, sampling(8)),
    ),
    episode(t.VLLM, (f.FILL_SHM, training(2)), (f.STOP_INNER_WATCHER, sampling(4)), (f.KILL_ENGINE, sampling(5))),
    episode(
        t.VLLM_STALE,
        (f.KILL_ENGINE, training(2)),
        (f.STOP_API, sending(4, 0.05)),
        (KILL, sampling(6)),
        (f.TERM, training(8)),
    ),
    episode(t.VLLM_ADAPTER, (f.KILL_ENGINE, sampling(3)), (f.INT, training(5)), (f.KILL_ENGINE, sending(7, 0.1))),
    episode(t.VLLM_MERGED, (f.KILL_API, sending(3, 0.05)), (KILL, saving(5)), (f.STOP_WATCHER, training(7))),
]

ALL = [*IN_PROCESS, *RANKS, *EVALUATIONS, *WITH_SERVER]
