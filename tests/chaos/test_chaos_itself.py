"""The harness finds what it looks for: a process that hid, a file that stayed, a prompt that was trained twice."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import pytest

from tests.chaos.enclosure import Enclosure, can_mount
from tests.chaos.episode import complaints
from tests.chaos.ledger import Ledger, Terms, differences
from tests.chaos.leftovers import half_written, leftovers
from tests.chaos.moments import sampling

TERMS = Terms(steps=2, prompts=2, group_size=2)


def row(step: int, group: int, prompt_id: str, **changes: object) -> dict[str, object]:
    return {"step": step, "group": group, "prompt_id": prompt_id, "dropped": False, "versions": [step - 1]} | changes


def ledger(**changes: object) -> Ledger:
    """Of two steps of two prompts, each answered twice."""
    rows = {step: [row(step, group, f"{step}/{group}") for group in (0, 0, 1, 1)] for step in (1, 2)}
    metrics = [{"step": n, "weight_version": n, "failed": 0.0, "loss": loss} for n, loss in ((1, 0.5), (2, 0.25))]
    evaluations = [{"step": 0, "accuracy": 0.5}, {"step": 2, "accuracy": 0.5}]
    summary = {"steps": 2, "before": 0.5, "after": 0.5}
    whole = Ledger(rows, metrics, evaluations, {"model.safetensors": b"weights"}, 2, summary, [], [])
    return replace(whole, **changes)


def in_step_2(**changes: float) -> list[dict[str, object]]:
    return [dict(ledger().metrics[0]), {**ledger().metrics[1], **changes}]


def test_a_ledger_differs_from_itself_in_nothing() -> None:
    assert differences(ledger(), ledger(), TERMS) == []


def test_only_the_step_that_a_stop_ended_may_have_been_recorded_before_its_weights_were_sent() -> None:
    assert differences(ledger(metrics=in_step_2(weight_version=1), stopped_after=[2]), ledger(), TERMS) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ledger().metrics[:1]}, "metrics.jsonl has steps [1]"),
        ({"metrics": [*ledger().metrics, ledger().metrics[1]]}, "metrics.jsonl has steps [1, 2, 2]"),
        ({"rows": {1: ledger().rows[1]}}, "rollouts has files of steps [1]"),
        ({"rows": {1: ledger().rows[1], 2: ledger().rows[2][:3]}}, "step 2 has groups of [2, 1] rows"),
        ({"rows": {step: [row(step, g, f"1/{g}") for g in (0, 0, 1, 1)] for step in (1, 2)}}, "never trained"),
        ({"rows": {step: [row(step, g, f"1/{g}") for g in (0, 0, 1, 1)] for step in (1, 2)}}, "more often"),
        ({"rows": {1: ledger().rows[1], 2: [one | {"versions": [0]} for one in ledger().rows[2]]}}, "[1] steps stale"),
        (
            {"rows": {1: ledger().rows[1], 2: [one | {"text": "?"} for one in ledger().rows[2]]}},
            "step 2 has other rows",
        ),
        ({"metrics": in_step_2(failed=0.5)}, "50% of the completions failed"),
        ({"metrics": in_step_2(loss=0.3)}, "step 2 differs in ['loss']"),
        ({"metrics": in_step_2(weight_version=1)}, "step 2 differs in ['weight_version']"),
        ({"metrics": in_step_2(weight_version=1), "stopped_after": [1]}, "step 2 differs in ['weight_version']"),
        ({"metrics": in_step_2(weight_version=0), "stopped_after": [2]}, "step 2 differs in ['weight_version']"),
        ({"evaluations": ledger().evaluations[:1]}, "evaluations.jsonl has steps [0]"),
        ({"weights": {"model.safetensors": b"others"}}, "the last one differs in ['model.safetensors']"),
        ({"last_step": 1}, "the last one is of step 1"),
        ({"unread": ["metrics.jsonl:1: Expecting value"]}, "Expecting value"),
    ],
)
def test_a_ledger_says_what_was_lost_repeated_or_changed(changes: dict[str, object], said: str) -> None:
    assert any(said in line for line in differences(ledger(**changes), ledger(), TERMS))


def test_a_dropped_group_is_not_trained() -> None:
    rows = {step: [*rows, row(step, 2, "extra", dropped=True)] for step, rows in ledger().rows.items()}
    assert differences(ledger(rows=rows), ledger(), replace(TERMS, exact=False)) == []


def test_what_a_command_leaves_is_found_and_taken_away() -> None:
    left = "setsid sleep 600 >/dev/null 2>&1 & touch $TMPDIR/a-file; kill -9 $$"
    with Enclosure() as enclosure:
        assert enclosure.start(["sh", "-c", left]).code(10) == 137
        found = leftovers(enclosure, within=0.2)
        assert [line.split()[0] for line in found] == ["process", "file"]
        (process,) = enclosure.processes()
    process.wait(5)


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="a mount namespace takes root")
def test_a_process_without_the_mark_is_found_and_nobody_elses_shared_memory() -> None:
    left = "touch /dev/shm/weights; env -i setsid sleep 600 >/dev/null 2>&1 &"
    with Enclosure() as other, Enclosure() as enclosure:
        assert enclosure.start(["sh", "-c", left]).code(10) == 0
        assert len(enclosure.processes()) == 1
        assert [path.name for path in enclosure.shared_memory()] == ["weights"]
        assert leftovers(other, within=0) == []


def test_a_half_written_file_is_found() -> None:
    with Enclosure() as enclosure:
        (enclosure.run_dir / "checkpoints" / ".step-000002.partial").mkdir(parents=True)
        assert half_written(enclosure.seen(enclosure.run_dir)) == ["half-written checkpoints/.step-000002.partial"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("echo 'failed: the disk is full' >&2; exit 1", 1, []),
        ("exit 1", 1, ["expected one message"]),
        ("echo 'error: one' >&2; echo 'error: two' >&2; exit 2", 2, ["expected one message"]),
        ("echo 'Traceback (most recent call last)' >&2; echo 'failed: oh' >&2; exit 1", 1, ["a traceback"]),
        ("exit 143", 143, ["not a word"]),
        ("echo 'go on with --resume'; exit 143", 143, []),
    ],
)
def test_an_end_is_judged_by_what_it_says(script: str, code: int, said: list[str]) -> None:
    with Enclosure() as enclosure:
        attempt = enclosure.start(["sh", "-c", script])
        assert attempt.code(10) == code
        found = complaints(attempt, code)
    assert [line.startswith(start) for line, start in zip(found, said, strict=True)] == [True] * len(said)


def test_a_moment_comes_with_its_line_once() -> None:
    with Enclosure() as enclosure:
        attempt = enclosure.start(["sleep", "60"])
        log = enclosure.seen(enclosure.run_dir) / "logs" / "run.log"
        log.parent.mkdir(parents=True)
        threading.Timer(0.2, lambda: log.write_text("step 1: sampling\nstep 2: sampling\n")).start()
        started = time.monotonic()
        assert sampling(2, within=0).wait(attempt, random.Random(0), 10)
        assert time.monotonic() - started >= 0.15
        assert not sampling(2, within=0).wait(attempt, random.Random(0), 0.05)
