"""Checkpoints are written while the run goes on, and nothing that happens meanwhile gets into them or lost by them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from torch.distributed.checkpoint import FileSystemWriter

from grpo.policy.checkpoint import CHECKSUMS, STATE, checkpoints, verify
from grpo.record.recorder import RunRecorder
from recipes.errors import exit_codes
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from tests import forked
from tests.checkpoints import STATE_FILE
from tests.grpo.test_trainer import same, weights

pytestmark = pytest.mark.slow

RECIPE = "tiny_arithmetic_cpu"
SMALL = [
    "rollout.engine=transformers", "rollout.group_size=8", "rollout.prompts_per_step=4", "rollout.max_tokens=16",
    "train.steps=4", "train.checkpoint_every=2", "train.eval_every=0", "eval.problems=4",
]  # fmt: skip
PATIENCE = 60  # seconds; nothing waits for so long unless the run waits for what it must not wait for
ORIGINAL = FileSystemWriter.write_data


def train(output: Path, *overrides: str, resume: bool = False) -> list[int]:
    """Run to the end; the steps that are recorded."""
    assert run(load_recipe(RECIPE, [*SMALL, *overrides]), RECIPE, output, resume) == 0
    return steps(output)


def steps(output: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(output)
    return output


def before_writing(monkeypatch: pytest.MonkeyPatch, do: Callable[[str], None]) -> None:
    """`do(name of the checkpoint's folder)` is called by the thread that is to write it."""

    def write_data(writer: FileSystemWriter, plan: object, planner: object) -> object:
        do(writer.path.parent.name)
        return ORIGINAL(writer, plan, planner)

    monkeypatch.setattr(FileSystemWriter, "write_data", write_data)


def at_stage(monkeypatch: pytest.MonkeyPatch, stage: str, do: Callable[[], None]) -> None:
    original = RunRecorder.stage

    def said(recorder: RunRecorder, message: str) -> None:
        original(recorder, message)
        if message == stage:
            do()

    monkeypatch.setattr(RunRecorder, "stage", said)


def checksums(output: Path, step: int) -> dict[str, str]:
    """Of what a checkpoint holds, but for the files with the seconds that the run took and a number drawn by torch."""
    folder = dict(checkpoints(output))[step]
    verify(folder)
    found = json.loads((folder / CHECKSUMS).read_text())
    del found["trainer.json"], found[f"{STATE}/.metadata"]
    return found


@pytest.mark.parametrize("model", ["dtype=float32", "dtype=bfloat16", "lora={r: 4}"])
def test_a_checkpoint_that_is_written_while_the_next_step_trains_has_the_bits_of_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    train(tmp_path / "undisturbed", f"model.{model}")
    trained = threading.Event()
    before_writing(monkeypatch, lambda name: name != ".step-000002.partial" or assert_(trained.wait(PATIENCE)))
    at_stage(monkeypatch, "sending weights, version 3", trained.set)
    train(tmp_path / "beside", f"model.{model}")
    assert trained.is_set()
    for step in (2, 4):
        assert checksums(tmp_path / "beside", step) == checksums(tmp_path / "undisturbed", step)
    assert checksums(tmp_path / "beside", 2)[STATE_FILE] != checksums(tmp_path / "beside", 4)[STATE_FILE]


def assert_(fact: bool) -> None:
    assert fact


NEVER_WRITTEN = """
import threading
from torch.distributed.checkpoint import FileSystemWriter
original = FileSystemWriter.write_data
def write_data(writer, plan, planner):
    if "step-000002" in str(writer.path):
        threading.Event().wait()
    return original(writer, plan, planner)
FileSystemWriter.write_data = write_data
from recipes.command.main import main
main()
"""


def test_a_run_killed_while_a_checkpoint_is_written_goes_on_from_the_one_before_to_the_same_bits(
    tmp_path: Path, whole: Path
) -> None:
    output, every = tmp_path / "out", "train.checkpoint_every=1"
    settings = [part for setting in (*SMALL, every) for part in ("--set", setting)]
    line = [sys.executable, "-c", NEVER_WRITTEN, "run", RECIPE, *settings, "--output", str(output)]
    with forked.Popen(line, stdout=subprocess.DEVNULL) as process:
        log, deadline = output / "logs" / "run.log", time.monotonic() + 300
        while not (log.exists() and "step 3: writing the checkpoint" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert [step for step, _ in checkpoints(output)] == [1]
    assert train(output, every, resume=True) == [1, 2, 3, 4]
    assert same(weights(output), weights(whole))
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize(("step", "noticed"), [(2, [2, 3, 4]), (4, [4])])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_the_reason_and_it_can_be_resumed(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int, noticed: list[int]
) -> None:
    def fail(name: str) -> None:
        if name == f".step-{step:06d}.partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        before_writing(patched, fail)
        with pytest.raises(OSError, match=rf"cannot write {output}/checkpoints/step-{step:06d}: Input/output error"):
            train(output)
    assert steps(output)[-1] in noticed
    assert [kept for kept, _ in checkpoints(output)] == [kept for kept in (2, 4) if kept < step]
    assert not list(output.rglob("*.partial"))
    assert train(output, resume=True) == [1, 2, 3, 4]
    assert same(weights(output), weights(whole))


def test_a_run_stopped_while_a_checkpoint_is_written_finishes_it_and_the_last_whole_step_s(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = threading.Event()

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.3, stopping.set).start()  # the stop is on its way then; it makes no difference if it is not

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        before_writing(patched, lambda name: assert_(stopping.wait(PATIENCE)))
        at_stage(patched, "step 3: training", stop)
        with pytest.raises(typer.Exit) as ended, exit_codes():
            run(load_recipe(RECIPE, SMALL), RECIPE, output, False)
    assert ended.value.exit_code == 143
    assert [step for step, _ in checkpoints(output)] == [2, 3]
    assert train(output, resume=True) == [1, 2, 3, 4]
    assert same(weights(output), weights(whole))
