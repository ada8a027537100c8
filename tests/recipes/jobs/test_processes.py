"""A run of several trainer processes: it computes what one computes, and survives the loss of any of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from grpo.policy.checkpoint import checkpoints
from recipes.jobs.processes import LEADER
from tests import forked
from tests.printed import without_loading
from tests.processes import ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
STEPS = 4


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "my_rewards.py").write_text(
        "def digits(completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]\n"
        "def fails(completions, **columns):\n"
        "    return [None] * len(completions)\n"
    )
    (folder / "rewards.py").write_text("raise SystemExit('the user\\'s own rewards.py was imported')\n")
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "my_rewards.py:digits"}],
        "rollout": {
            "engine": "transformers",
            "group_size": 4,
            "prompts_per_step": 3,
            "max_tokens": 8,
            "max_prompt_tokens": 16,
        },
        "train": {
            "steps": STEPS,
            "learning_rate": 5.0e-3,
            # Where a gradient is 0 but for rounding, Adam without it would step by the sign of the rounding.
            "optimizer": {"eps": 0.01},
            "checkpoint_every": 1,
            "keep_checkpoints": 9,
            "seed": 3,
        },
        "eval": {"problems": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(recipe_file: Path, output: Path, processes: int, *more: str) -> list[str]:
    program = "from recipes.command.main import main; main()"
    line = [sys.executable, "-P", "-c", program, "run", str(recipe_file), "--output", str(output)]
    return [*line, "--set", f"train.processes={processes}", *more]


@contextmanager
def started(
    line: list[str], *path: Path, popen: type[subprocess.Popen[str]] = forked.Popen
) -> Iterator[subprocess.Popen[str]]:
    """`path`: folders that Python looks for modules in, before ours."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    where = next(Path(part).parent for part in line if part.endswith("recipe.yaml"))  # with a rewards.py in it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with popen(line, env=env, cwd=where, start_new_session=True, **pipes) as process:
        tree = []
        try:
            yield process
            tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        finally:
            process.kill()
            for child in tree:
                assert ended(child.pid)


def run(*arguments: object, **how: Any) -> tuple[int, str, str]:
    """Exit code, and what was printed on both streams."""
    with started(command(*arguments), **how) as process:  # type: ignore[arg-type]
        out, errors = process.communicate(timeout=400)
    return process.returncode, out, without_loading(errors)


def log(output: Path) -> str:
    file = output / "logs" / "run.log"
    return file.read_text() if file.exists() else ""


def wait_for_log(process: subprocess.Popen[str], output: Path, text: str) -> None:
    wait_for(process, lambda: text in log(output))


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ranks(process: subprocess.Popen[str], output: Path) -> dict[int, psutil.Process]:
    """The launcher's two."""
    leader = int((output / "logs" / "ranks" / LEADER).read_text())
    found = {int(child.pid != leader): child for child in psutil.Process(process.pid).children()}
    assert found[0].pid == leader
    return found


def weights(output: Path) -> dict[str, torch.Tensor]:
    step, folder = checkpoints(output)[-1]
    assert step == STEPS
    return load_file(folder / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def steps(output: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that nothing interrupts, by their number of processes; these are not forked (tests/forked.py)."""
    folder = tmp_path_factory.mktemp("whole")
    for processes in (1, 2):
        code, _, errors = run(recipe_file, folder / str(processes), processes, popen=subprocess.Popen)
        assert (code, errors) == (0, "")
    return {processes: folder / str(processes) for processes in (1, 2)}


def test_two_processes_train_what_one_trains_and_their_checkpoint_is_a_model_like_its(whole) -> None:
    assert difference(whole[1], whole[2]) < 1e-6
    configs = [json.loads((checkpoints(out)[-1][1] / "config.json").read_text()) for out in whole.values()]
    assert configs[0] == configs[1]
    lines = [(out / "metrics.jsonl").read_text().splitlines() for out in whole.values()]
    for one, two in zip(*lines, strict=True):
        assert json.loads(one)["reward"] == json.loads(two)["reward"]


@pytest.mark.parametrize("processes", [1, 3])
def test_saved_at_two_processes_and_resumed_at_another_number_it_ends_the_same(
    recipe_file, whole, tmp_path, processes
) -> None:
    output = tmp_path / "out"
    with started(command(recipe_file, output, 2)) as process:
        wait_for(process, lambda: bool(checkpoints(output)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = checkpoints(output)[-1][1].name
    code, _, errors = run(recipe_file, output, processes, "--resume")
    assert (code, errors) == (0, "")
    assert f"resuming from {kept}" in log(output)
    assert difference(output, whole[2]) < 1e-6
    assert steps(output) == [1, 2, 3, 4]


@pytest.mark.parametrize(("victim", "moment"), [(0, "step 2: training"), (1, "step 3: sampling")])
def test_a_rank_that_is_killed_takes_all_with_it_and_they_go_on_from_the_last_checkpoint(
    recipe_file, whole, tmp_path, victim, moment
) -> None:
    output = tmp_path / "out"
    with started(command(recipe_file, output, 2)) as process:
        wait_for_log(process, output, moment)
        before = ranks(process, output)
        before[victim].kill()
        assert all(ended(rank.pid) for rank in before.values())
        _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert steps(output) == [1, 2, 3, 4]
    assert difference(output, whole[2]) == 0  # as many processes: to the bit


NEVER_ENDED = """  # sitecustomize: rank 0, before it is started again, has trained all and does not get done
import os
if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("0", "0"):
    import time
    from grpo.record.recorder import RunRecorder
    def finish(recorder, summary):
        recorder.note("finishing")
        time.sleep(300)
    RunRecorder.finish = finish
"""


def test_a_rank_that_is_killed_when_all_is_trained_is_no_request_to_stop(recipe_file, whole, tmp_path) -> None:
    output = tmp_path / "out"
    (tmp_path / "sitecustomize.py").write_text(NEVER_ENDED)
    with started(command(recipe_file, output, 2), tmp_path) as process:
        wait_for_log(process, output, "finishing")
        ranks(process, output)[1].kill()
        out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "stopped by" not in errors
    assert "--resume" not in out
    assert steps(output) == [1, 2, 3, 4]
    assert difference(output, whole[2]) == 0


NEVER_WRITTEN = """  # sitecustomize: rank 1, before it is started again, does not get done with writing step 2
import os
if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("1", "0"):
    import threading
    from torch.distributed.checkpoint import FileSystemWriter
    original = FileSystemWriter.write_data
    def write_data(writer, plan, planner):
        if "step-000002" in str(writer.path):
            threading.Event().wait()
        return original(writer, plan, planner)
    FileSystemWriter.write_data = write_data
"""


def test_all_train_on_while_one_rank_writes_and_when_it_is_killed_they_go_on_from_the_checkpoint_before(
    recipe_file, whole, tmp_path
) -> None:
    output = tmp_path / "out"
    (tmp_path / "sitecustomize.py").write_text(NEVER_WRITTEN)
    with started(command(recipe_file, output, 2), tmp_path) as process:
        wait_for_log(process, output, "step 3: writing the checkpoint")
        assert [step for step, _ in checkpoints(output)] == [1]
        ranks(process, output)[1].kill()
        _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "resuming from step-000001" in log(output)
    assert steps(output) == [1, 2, 3, 4]
    assert difference(output, whole[2]) == 0
    assert not list(output.rglob("*.partial"))


def test_sigterm_leaves_a_checkpoint_of_the_last_whole_step_and_says_how_to_go_on(recipe_file, whole, tmp_path) -> None:
    output = tmp_path / "out"
    with started(command(recipe_file, output, 2)) as process:
        wait_for_log(process, output, "step 2: training")
        tree = ranks(process, output)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
    assert (process.returncode, without_loading(errors).strip()) == (143, "stopped by SIGTERM")
    assert "--resume" in said
    assert all(ended(rank.pid) for rank in tree.values())
    assert checkpoints(output)[-1][0] == len(steps(output))
    code, _, errors = run(recipe_file, output, 2, "--resume")
    assert (code, errors) == (0, "")
    assert difference(output, whole[2]) == 0


def test_the_launcher_killed_takes_its_ranks_with_it(recipe_file, tmp_path) -> None:
    output = tmp_path / "out"
    with started(command(recipe_file, output, 2)) as process:
        wait_for_log(process, output, "step 1: sampling")
        tree = ranks(process, output)
        process.kill()
        assert all(ended(rank.pid) for rank in tree.values())


def test_a_run_that_fails_is_not_started_again_and_says_why_once(recipe_file, tmp_path) -> None:
    rewards = "rewards=[{name: '" + str(recipe_file.parent / "my_rewards.py") + ":fails'}]"
    code, _, errors = run(recipe_file, tmp_path / "out", 2, "--set", rewards)
    assert code == 1
    assert errors.startswith("failed: ")
    assert errors.count("failed: ") == 1
    assert log(tmp_path / "out").count("step 1: sampling") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=/nowhere", "error: model.path: "),
        ("train.replicas=3", "replicas: got 3, expected a divisor of processes"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(recipe_file, tmp_path, override, message) -> None:
    code, _, errors = run(recipe_file, tmp_path / "out", 2, "--set", override)
    assert code == 2, errors
    assert message in errors
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
