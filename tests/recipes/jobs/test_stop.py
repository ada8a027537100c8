"""SIGTERM, SIGHUP and Ctrl-C: the last whole step is kept, the message pastes, and the exit code says which it was."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from datasets import load_dataset
from safetensors.torch import load_file

from grpo.policy.checkpoint import checkpoints
from grpo.record.recorder import RunRecorder
from recipes.errors import exit_codes, run_async
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from tests import forked
from tests.processes import gone

pytestmark = pytest.mark.slow

ZERO = str(Path(sys.executable).parent / "zero")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("with a space")
    (folder / "my_rewards.py").write_text(
        "def digits(completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]\n"
        "def slow(completions, **columns):\n"
        "    import pathlib, time\n"
        "    pathlib.Path('scoring').touch()\n"
        "    time.sleep(600)\n"
    )
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "my_rewards.py:digits"}],
        "rollout": {
            "engine": "transformers",
            "group_size": 4,
            "prompts_per_step": 2,
            "max_tokens": 8,
            "max_prompt_tokens": 16,
        },
        "train": {"steps": 4, "learning_rate": 2.0e-4, "checkpoint_every": 3, "eval_every": 2, "seed": 3},
        "eval": {"problems": 4},
    }
    path = folder / "my recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run(load_recipe(str(recipe_file)), "test", output, False)
    return output


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the command stay when it was stopped, for the rest of the process."""
    before = {number: signal.getsignal(number) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def lines(output: Path, name: str) -> list[dict]:
    file = output / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rollouts(output: Path) -> list[tuple]:
    rows = load_dataset("parquet", data_files=str(output / "rollouts" / "*.parquet"), split="train")
    return [(row["step"], row["prompt_id"], row["token_ids"]) for row in rows]


def assert_as_uninterrupted(output: Path, whole: Path) -> None:
    ours, theirs = (load_file(checkpoints(one)[-1][1] / "model.safetensors") for one in (output, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert [line["step"] for line in lines(output, name)] == [line["step"] for line in lines(whole, name)]
    assert [line["loss"] for line in lines(output, "metrics.jsonl")] == [
        line["loss"] for line in lines(whole, "metrics.jsonl")
    ]
    assert rollouts(output) == rollouts(whole)


def signal_at_stage(monkeypatch: pytest.MonkeyPatch, number: int, delay: float, signals: list[int]) -> threading.Thread:
    """At the stage of that number a thread starts to send signals, the first after `delay` seconds."""
    seen = 0
    original = RunRecorder.stage

    def stage(recorder: RunRecorder, message: str) -> None:
        nonlocal seen
        original(recorder, message)
        if seen == number:
            sender.start()
        seen += 1

    def send() -> None:
        time.sleep(delay)
        for one in signals:
            os.kill(os.getpid(), one)
            time.sleep(0.01)

    sender = threading.Thread(target=send, daemon=True)
    monkeypatch.setattr(RunRecorder, "stage", stage)
    return sender


@pytest.mark.parametrize("seed", range(10))
def test_a_run_stopped_at_any_moment_and_resumed_ends_as_the_uninterrupted_one(
    recipe_file, whole, tmp_path, monkeypatch, seed
):
    log = (whole / "logs" / "run.log").read_text()
    n_stages = len(re.findall(r"starting the|sending|measuring|: (?:sampling|training|writing)", log))
    draw = random.Random(seed)
    number = draw.choice(list(CODES))
    # The first of several signals counts; only a second Ctrl-C would end it at once.
    signals = [number, signal.SIGTERM, signal.SIGHUP]
    output, recipe = tmp_path / "run", load_recipe(str(recipe_file))
    with monkeypatch.context() as patched:
        moment = (2 * seed + draw.randrange(2)) % (n_stages - 1)
        sender = signal_at_stage(patched, moment, draw.choice([0, 0, 0.05]), signals)
        with pytest.raises(typer.Exit) as ended, exit_codes():
            run(recipe, "test", output, False)
        sender.join()
    assert ended.value.exit_code == CODES[number]
    # Every step that is recorded is kept, and no other.
    trained = [line["step"] for line in lines(output, "metrics.jsonl")]
    assert trained == list(range(1, len(trained) + 1))
    assert [step for step, _ in checkpoints(output)][-1:] == trained[-1:]
    run(recipe, "test", output, True)
    assert_as_uninterrupted(output, whole)


def test_what_is_said_after_sigterm_goes_on_when_it_is_pasted_into_a_shell(recipe_file, whole, tmp_path):
    folder = recipe_file.parent
    output = tmp_path / "out put"
    overrides = ["--set", "task.config={levels: [1]}", "--set", "task.template='{question}='"]
    line = [ZERO, "run", recipe_file.name, *overrides, "--output", os.path.relpath(output, folder)]
    with started(line, cwd=folder) as process:
        wait_for_log(process, output, "step 2: sampling")
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert errors.strip().splitlines()[-1] == "stopped by SIGTERM"
    assert checkpoints(output)
    command = said.partition("Go on with\n")[2].splitlines()[0]
    path = f"{Path(ZERO).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=300)
    assert_as_uninterrupted(output, whole)


@contextmanager
def started(line: list[str], **where: Any) -> Iterator[forked.Popen]:
    pipe = subprocess.PIPE
    with forked.Popen(line, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **where) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: forked.Popen, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_log(process: forked.Popen, output: Path, text: str) -> None:
    log = output / "logs" / "run.log"
    wait_for(process, lambda: log.exists() and text in log.read_text())


def test_a_terminal_that_hangs_up_leaves_a_checkpoint(recipe_file, tmp_path):
    output = tmp_path / "out"
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    os.close(theirs)
    # A session's leader that opens a terminal is hung up with it.
    script = 'exec <"$1" >"$1" 2>&1; shift; exec "$@"'
    line = ["sh", "-c", script, "sh", name, ZERO, "run", str(recipe_file), "--output", str(output)]
    with subprocess.Popen(line, start_new_session=True) as process:
        hung_up = threading.Event()
        drain = threading.Thread(target=read_until, args=(ours, hung_up), daemon=True)
        drain.start()
        wait_for_log(process, output, "step 2: sampling")
        hung_up.set()
        drain.join()  # a descriptor that somebody reads from is not closed before he has read
        os.close(ours)
        try:
            assert process.wait(300) == 129
        finally:
            process.kill()
    assert checkpoints(output)[-1][0] == len(lines(output, "metrics.jsonl"))


def without_a_reader(output: Path, line: list[str], both: bool) -> int:
    """The exit code of a run whose reader goes away in its first step, of stdout alone or of stderr, too."""
    read, write = os.pipe()
    with subprocess.Popen(line, stdout=write, stderr=write if both else subprocess.DEVNULL) as process:
        os.close(write)
        try:
            wait_for_log(process, output, "step 1: sampling")
            os.close(read)
            return process.wait(300)
        finally:
            process.kill()


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_goes_away_leaves_a_checkpoint(recipe_file, whole, tmp_path, both):
    """As of `zero run ... | head -1`, or in a notebook that is killed: what is said next meets a broken pipe."""
    output = tmp_path / "out"
    assert without_a_reader(output, [ZERO, "run", str(recipe_file), "--output", str(output)], both) == 129
    assert checkpoints(output)[-1][0] == len(lines(output, "metrics.jsonl"))
    run(load_recipe(str(recipe_file)), "test", output, True)
    assert_as_uninterrupted(output, whole)


def test_where_a_hangup_is_ignored_a_run_goes_on_without_its_reader(recipe_file, whole, tmp_path):
    output = tmp_path / "out"
    assert without_a_reader(output, ["nohup", ZERO, "run", str(recipe_file), "--output", str(output)], True) == 0
    assert_as_uninterrupted(output, whole)


def read_until(descriptor: int, enough: threading.Event) -> None:
    while not enough.is_set():
        with suppress(OSError):  # nobody has opened the other end yet
            if select.select([descriptor], [], [], 0.05)[0]:
                os.read(descriptor, 4096)


SLOW_CHECKPOINT = """
import sys, time, torch
original = torch.save
def slow(*arguments):
    print("writing", flush=True)
    time.sleep(600)
torch.save = slow
from recipes.command.main import main
main()
"""


def test_a_second_ctrl_c_ends_a_run_that_writes_at_once_with_nothing_half_written(recipe_file, whole, tmp_path):
    output = tmp_path / "out"
    line = [sys.executable, "-c", SLOW_CHECKPOINT, "run", str(recipe_file), "--output", str(output)]
    with started(line) as process:
        wait_for_log(process, output, "step 2: sampling")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert any(printed == "writing\n" for printed in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert gone(process.pid)
    assert checkpoints(output) == []
    run(load_recipe(str(recipe_file)), "test", output, True)
    assert_as_uninterrupted(output, whole)


@pytest.mark.parametrize(
    ("command", "arguments", "busy"),
    [
        ("score", ["--reward", "REWARD", "--data", "data.jsonl"], "scoring"),
        ("filter", ["RECIPE", "--samples", "200", "--output", "out.jsonl"], "out.filter.json"),
        ("serve", ["MODEL", "--port", "0"], "cache/zero-rl"),
    ],
)
def test_sigterm_ends_every_command_with_143(command, arguments, busy, recipe_file, tiny_model, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"completion": "1", "answer": "1"}) + "\n")
    slow = f"{recipe_file.parent / 'my_rewards.py'}:slow"
    paths = {"REWARD": slow, "RECIPE": str(recipe_file), "MODEL": str(tiny_model)}
    line = [ZERO, command, *(paths.get(argument, argument) for argument in arguments)]
    with started(line, cwd=tmp_path, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as process:
        wait_for(process, (tmp_path / busy).exists)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors.strip().splitlines()[-1]) == (143, "stopped by SIGTERM")
    assert gone(process.pid)


def test_a_signal_cancels_what_runs_and_is_raised_when_that_has_ended():
    order = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # more of the same changes nothing
            await asyncio.sleep(0.05)
            order.append("in order")

    with pytest.raises(typer.Exit) as ended, exit_codes():
        run_async(main())
    assert order == ["in order"]
    assert ended.value.exit_code == 143


def test_a_signal_that_is_ignored_stays_so_and_handlers_are_given_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        handlers = {number: signal.getsignal(number) for number in CODES}
        with exit_codes():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert {number: signal.getsignal(number) for number in CODES} == handlers
    finally:
        signal.signal(signal.SIGHUP, before)
