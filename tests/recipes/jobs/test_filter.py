"""`zero filter` with the in-process engine: pass rates, what is kept, resuming, and training on the file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from typer.testing import CliRunner

from eval.stats.intervals import wilson
from grpo.record.atomic import append_line
from recipes.command.main import main
from recipes.jobs.filter import _json
from recipes.schema.load import load_recipe
from recipes.schema.recipe import TaskSettings
from recipes.tasks import Task, TaskError, load_task
from rewards import Score
from tests import forked

pytestmark = pytest.mark.slow

N = 12  # problems of most tests here


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The built-in model on sums and differences, some of which it solves now and then."""
    settings = {
        "model": {"path": "tiny", "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1, 2]}, "template": "{question}=<think>", "problems": N},
        "rewards": [{"name": "accuracy"}],
        "rollout": {
            "engine": "transformers",
            "prompts_per_step": 4,
            "max_tokens": 48,
            "max_prompt_tokens": 32,
            "max_sequences": 24,
        },
        "eval": {"problems": 6},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def zero_filter(*args: object) -> Any:
    return CliRunner().invoke(main, ["filter", *map(str, args)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_lone_surrogate_in_a_column_is_written_as_something_datasets_can_read(tmp_path):
    path = tmp_path / "kept.jsonl"
    append_line(path, _json({"question": "1+1 \ud800", "answer": "2", "tags": ["\ud800"]}))
    (row,) = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert row == {"question": r"1+1 \ud800", "answer": "2", "tags": [r"\ud800"]}


def columns_task(dataset: Path, **changes: Any) -> Task:
    columns = {"question": "question", "answer": "answer"}
    return load_task(TaskSettings(dataset=str(dataset), columns=columns, **changes), 100, 0)


def test_every_problem_gets_its_pass_rate_and_those_in_between_are_kept_and_counted(recipe, tmp_path):
    out = tmp_path / "out.jsonl"
    result = zero_filter(recipe, "--output", out, "--samples", 6, "--low", 0.2, "--high", 0.7)
    assert result.exit_code == 0, result.output
    got = lines(out)
    task = load_task(load_recipe(str(recipe)).task, 6, 0)
    assert [(one["id"], one["question"], one["answer"]) for one in got] == [
        (row.id, row.question, row.answer) for row in task.train
    ]
    for one in got:
        assert one["n"] == 6
        assert one["pass_rate"] * 6 in range(7)
        assert (one["low"], one["high"]) == wilson(one["pass_rate"] * 6, 6)
        assert one["kept"] == (0.2 <= one["pass_rate"] <= 0.7)
    rates = [one["pass_rate"] for one in got]
    kept, easy, hard = (
        sum(0.2 <= rate <= 0.7 for rate in rates),
        sum(rate > 0.7 for rate in rates),
        sum(rate < 0.2 for rate in rates),
    )
    assert min(kept, hard) > 0  # else the counts say little
    for name, count in (("kept", kept), ("too easy", easy), ("too hard", hard), ("failed", 0)):
        assert f"{name:<9}{count:>7} {count / N:>6.1%}" in result.stdout


def test_the_pass_rate_is_the_share_that_the_tasks_verifier_finds_right(recipe, tmp_path, monkeypatch):
    """A verifier that calls an answer right if it is even, and fails on those that end in 3."""

    def grade(completion: str, row: Any) -> Score:
        last = completion.removesuffix("</answer>")[-1:]
        value = None if last == "3" else float(last in "02468" and last != "")
        graded.append((row["answer"], value))
        return Score(value, last, "error" if value is None else "correct" if value else "wrong", "")

    graded: list[tuple[str, float | None]] = []
    loaded = load_task(load_recipe(str(recipe)).task, 6, 0)
    monkeypatch.setattr(
        "recipes.episodes.load_task", lambda *_: Task(loaded.name, loaded.train[:5], loaded.held_out, [], grade)
    )
    out = tmp_path / "out.jsonl"
    zero_filter(recipe, "--output", out, "--samples", 8)
    assert len(graded) == 5 * 8
    assert None in [value for _, value in graded]
    for one in lines(out):
        values = [value for answer, value in graded if answer == one["answer"] and value is not None]
        assert (one["n"], one["pass_rate"]) == (len(values), sum(values) / len(values))


def test_the_file_is_a_dataset_of_the_problems_that_were_kept(recipe, tmp_path):
    folder = tmp_path / "filtered"
    args = ("--output", folder / "train.jsonl", "--held-out", folder / "test.jsonl", "--samples", 6, "--high", 0.7)
    result = zero_filter(recipe, *args)
    kept = [one for one in lines(folder / "train.jsonl") if one["kept"]]
    assert 0 < len(kept) < N
    task = columns_task(folder)
    assert [(row.question, row.answer) for row in task.train] == [(one["question"], one["answer"]) for one in kept]
    original = load_task(load_recipe(str(recipe)).task, 6, 0)
    assert [(row.question, row.answer) for row in task.held_out] == [
        (row.question, row.answer) for row in original.held_out
    ]
    assert len(task.rejected) == N - len(kept)
    assert all(reason.startswith("not kept by zero filter: pass rate ") for _, reason in task.rejected)
    # The last line is the recipe's task: it loads, and asks the model as before.
    said = yaml.safe_load(result.stdout.splitlines()[-1].strip())["task"]
    assert said == {
        "dataset": str(folder),
        "columns": {"question": "question", "answer": "answer"},
        "template": "{question}=<think>",
    }


def test_a_run_trains_on_the_file(recipe, tmp_path):
    out = tmp_path / "out.jsonl"
    zero_filter(recipe, "--output", out, "--samples", 4)
    settings = yaml.safe_load(recipe.read_text())
    settings["task"] = {
        "dataset": "out.jsonl",
        "columns": {"question": "question", "answer": "answer"},
        "template": "{question}=<think>",
    }
    settings["train"] = {"steps": 1}
    settings["rollout"] |= {"prompts_per_step": 2, "group_size": 2}
    recipe.write_text(yaml.safe_dump(settings))
    result = CliRunner().invoke(main, ["run", str(recipe), "--output", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1


def test_a_dataset_with_a_column_called_kept_is_left_alone(tmp_path):
    rows = [{"question": f"{i} + 1", "answer": str(i + 1), "kept": False} for i in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = columns_task(tmp_path / "own.jsonl")
    assert len(task.train) + len(task.held_out) == 20


def test_a_filter_of_which_nothing_is_kept_says_so_and_its_file_is_refused_with_the_reason(
    recipe, tmp_path, tiny_model
):
    """A random model solves nothing."""
    out = tmp_path / "out.jsonl"
    result = zero_filter(recipe, "--output", out, "--samples", 2, "--set", f"model.path={tiny_model}")
    assert result.exit_code == 0
    assert f"too hard {N:>7} 100.0%" in result.stdout
    assert "no problem is kept" in result.stdout
    with pytest.raises(
        TaskError, match=r"no training problem is left. Rejected: .*not kept by zero filter: pass rate 0"
    ):
        columns_task(out)


# -- Resuming -----------------------------------------------------------------------------------------------------


def test_killed_and_resumed_it_keeps_every_line_and_ends_as_the_uninterrupted_one(recipe, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    # One problem at a time, so that a batch's company changes nothing.
    args = ("--samples", 4, "--set", "rollout.max_sequences=4")
    assert zero_filter(recipe, "--output", whole, *args).exit_code == 0
    command = [str(Path(sys.executable).parent / "zero"), "filter", str(recipe), "--output", str(broken)]
    process = forked.Popen([*command, *map(str, args)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not broken.exists() or broken.read_text().count("\n") < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = lines(broken)
    assert 3 <= len(before) < N
    with broken.open("a") as file:
        file.write('{"id": "torn')
    result = zero_filter(recipe, "--output", broken, "--resume", *args)
    assert result.exit_code == 0, result.output
    assert f"{len(before) * 4} of them stored already" in result.stdout
    assert lines(broken) == lines(whole)


def test_ctrl_c_keeps_what_was_graded_is_exit_130_and_says_how_to_go_on(recipe, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    args = ("--samples", 4, "--set", "rollout.max_sequences=4")
    assert zero_filter(recipe, "--output", whole, *args).exit_code == 0
    command = [str(Path(sys.executable).parent / "zero"), "filter", str(recipe), "--output", str(broken)]
    process = forked.Popen([*command, *map(str, args)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not broken.exists() or broken.read_text().count("\n") < 3:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "go on with the same arguments and --resume" in said
    before = lines(broken)
    assert 3 <= len(before) < N
    assert zero_filter(recipe, "--output", broken, "--resume", *args).exit_code == 0
    assert lines(broken) == lines(whole)


def test_a_problem_that_came_when_it_is_cancelled_is_graded_and_stored(recipe, tmp_path, monkeypatch):
    """A verifier that stops the filter by Ctrl-C while it grades."""
    loaded = load_task(load_recipe(str(recipe)).task, 6, 0)

    def grade(completion: str, row: Any) -> Score:
        if not stopped:
            stopped.append(signal.raise_signal(signal.SIGINT))
            time.sleep(0.5)  # the main thread takes the signal meanwhile
        return loaded.grade(completion, row)

    stopped: list[None] = []
    task = Task(loaded.name, loaded.train, loaded.held_out, [], grade)
    monkeypatch.setattr("recipes.episodes.load_task", lambda *_: task)
    out = tmp_path / "out.jsonl"
    result = zero_filter(recipe, "--output", out, "--samples", 2, "--set", "rollout.max_sequences=2")
    assert result.exit_code == 130
    assert [one["n"] for one in lines(out)] == [2]


def test_damaged_lines_are_passed_over_and_said_and_their_problems_are_asked_again(recipe, tmp_path, monkeypatch):
    from grpo.rollout.local import TransformersEngine

    sample, asked = TransformersEngine._sample, []

    def counting(self: Any, requests: Any) -> Any:
        asked.extend(request.prompt.id for request in requests)
        return sample(self, requests)

    monkeypatch.setattr(TransformersEngine, "_sample", counting)
    out = tmp_path / "out.jsonl"
    args = ("--samples", 2, "--set", "rollout.max_sequences=2")
    zero_filter(recipe, "--output", out, *args)
    whole = lines(out)
    written = out.read_text().splitlines(keepends=True)
    bad = ["{no json\n", "[]\n", json.dumps(whole[2] | {"n": "2"}) + "\n", json.dumps({"id": whole[3]["id"]}) + "\n"]
    out.write_text("".join([*bad, *written[4:], written[5], written[0][:30]]))
    asked.clear()
    result = zero_filter(recipe, "--output", out, "--resume", *args)
    assert result.exit_code == 0, result.output
    assert f"{out}: 5 lines cannot be read; their problems are asked again" in result.stdout
    assert asked == [one["id"] for one in whole[:4]]
    assert lines(out) == whole


def test_what_was_asked_being_damaged_is_one_message(recipe, tmp_path):
    out = tmp_path / "out.jsonl"
    zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 1)
    out.with_suffix(".filter.json").write_text('{"model": ')
    result = zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 1, "--resume")
    assert result.exit_code == 2
    assert "out.filter.json is damaged" in result.stderr


def test_problems_that_failed_are_counted_exit_1_and_are_asked_again_on_resume(recipe, tmp_path, monkeypatch):
    from grpo.rollout.local import TransformersEngine
    from grpo.types import Group

    sample = TransformersEngine._sample
    asked: list[str] = []

    def flaky(self: Any, requests: Any) -> list[Group]:
        groups = sample(self, requests)
        asked.extend(group.prompt.id for group in groups)
        lost = [Group(group.prompt, (), {"timeout": len(group.completions)}) for group in groups]
        return [bad if group.prompt.id in fails else group for group, bad in zip(groups, lost, strict=True)]

    monkeypatch.setattr(TransformersEngine, "_sample", flaky)
    ids = [row.id for row in load_task(load_recipe(str(recipe)).task, 6, 0).train]
    fails = set(ids[:2])
    out = tmp_path / "out.jsonl"
    result = zero_filter(recipe, "--output", out, "--samples", 2)
    assert result.exit_code == 1
    assert f"failed   {2:>7} {2 / N:>6.1%}" in result.stdout
    first = {one["id"]: one for one in lines(out)}
    assert [(first[i]["pass_rate"], first[i]["n"], first[i]["kept"]) for i in ids[:2]] == [(None, 0, False)] * 2
    fails, asked[:] = set(), []
    assert zero_filter(recipe, "--output", out, "--samples", 2, "--resume").exit_code == 0
    assert sorted(asked) == sorted(ids[:2])
    second = lines(out)
    assert [one["id"] for one in second] == ids
    assert all(one["n"] == 2 for one in second)
    assert [one for one in second if one["id"] not in ids[:2]] == [first[i] for i in ids[2:]]


def test_a_limit_may_grow_on_resume_and_what_is_there_is_not_asked_again(recipe, tmp_path):
    out = tmp_path / "out.jsonl"
    zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 3)
    first = lines(out)
    assert len(first) == 3
    result = zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 5, "--resume")
    assert f"{out}: 5 problems" in result.stdout
    assert lines(out)[:3] == first
    zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 2, "--resume")
    assert len(lines(out)) == 5  # nothing that was computed is lost


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--samples", 3), "another filter: samples is 2 there, 3 here"),
        (("--samples", 2, "--high", 0.8), "high is 0.9 there, 0.8 here"),
        (("--samples", 2, "--set", "rollout.temperature=0.7"), "rollout.temperature is 1.0 there, 0.7 here"),
        (("--samples", 2, "--set", "task.config={levels: [3]}"), r"task.config.levels is [1, 2] there, [3] here"),
    ],
)
def test_resuming_with_another_recipe_or_other_arguments_is_refused_and_says_what_differs(
    recipe, tmp_path, args, message
):
    out = tmp_path / "out.jsonl"
    zero_filter(recipe, "--output", out, "--samples", 2, "--limit", 1)
    content = out.read_bytes()
    result = zero_filter(recipe, "--output", out, "--resume", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert out.read_bytes() == content
    # What does not change a pass rate may change.
    assert (
        zero_filter(
            recipe, "--output", out, "--samples", 2, "--limit", 1, "--resume", "--set", "train.steps=7"
        ).exit_code
        == 0
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--output", "OUT.jsonl", "--low", 0.9, "--high", 0.1), "expected 0 <= low <= high <= 1"),
        (("--output", "OUT.json"), "expected a name that ends in .jsonl"),
        (("--output", "OUT.jsonl", "--held-out", "OUT.jsonl"), "is the --output itself"),
        (("--output", "there.jsonl"), "there.jsonl exists; add --resume to go on with it, or name another file"),
        (("--output", "OUT.jsonl", "--resume"), "there is no OUT.filter.json; expected the --output of a filter"),
        (("--output", "OUT.jsonl", "--set", "task.name=none"), "task.name: got 'none', expected"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_message(recipe, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text("{}\n")
    result = zero_filter(recipe, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert Path("there.jsonl").read_text() == "{}\n"
    assert not Path("OUT.jsonl").exists()


def test_a_sampler_that_cannot_go_on_is_exit_code_1_and_leaves_what_was_graded(recipe, tmp_path, monkeypatch):
    from grpo.rollout.engine import RolloutError
    from grpo.rollout.local import TransformersEngine

    sample, calls = TransformersEngine._sample, []

    def dies(self: Any, requests: Any) -> Any:
        calls.append(len(requests))
        if len(calls) > 1:
            raise RolloutError("the server died")
        return sample(self, requests)

    monkeypatch.setattr(TransformersEngine, "_sample", dies)
    out = tmp_path / "out.jsonl"
    result = zero_filter(recipe, "--output", out, "--samples", 2, "--set", "rollout.max_sequences=8")
    assert result.exit_code == 1
    assert "failed: the server died" in result.stderr
    assert len(lines(out)) == calls[0] == 4
