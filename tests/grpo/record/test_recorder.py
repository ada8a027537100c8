"""What a run leaves behind: lines, Parquet, trackers, report; whole, resumable, with errors that name the file."""

import base64
import gzip
import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from grpo.record.atomic import append_line, write_atomic
from grpo.record.recorder import RunRecorder
from grpo.record.report import learning_curve, terminal_curve, whole_steps, write_report
from grpo.record.rows import rollout_metrics
from grpo.record.run import read_run, run_title
from grpo.record.stored import RecordError, read_lines, read_rollouts
from grpo.rollout.scheduler import ScoredGroup
from grpo.types import Completion, Group, Prompt
from recipes.command.main import main
from recipes.schema.load import load_recipe, save_recipe
from rewards import Reward

RECIPE = {"model": {"path": "tiny", "lora": None}, "task": {"name": "arithmetic"}, "rewards": [{"name": "accuracy"}]}
BEFORE = {"accuracy": 0.3, "low": 0.25, "high": 0.35, "n": 200}
AFTER = {"accuracy": 0.9, "low": 0.86, "high": 0.94, "n": 200}


def recorder(run_dir: Path, **keywords) -> RunRecorder:
    console = Console(file=io.StringIO(), width=80)
    return RunRecorder(run_dir, RECIPE, total_steps=4, console=console, **keywords)


def row(step: int, **changes):
    return {
        "step": step,
        "group": 0,
        "prompt_id": "arithmetic/train/1",
        "prompt": "1+2=<think>",
        "prefill": "<think>",
        "messages": None,
        "completion": "3</think> <answer>3</answer>",
        "answer": "3",
        "columns": {"level": 1},
        "reward": 1.0,
        "rewards": {"accuracy": 1.0, "format": None},
        "extra": {},
        "outcome": "correct",
        "extracted": "3",
        "reason": "",
        "advantage": 0.5,
        "dropped": False,
        "finish_reason": "stop",
        "token_ids": [8, 3],
        "logprobs": [-0.5, -0.25],
        "versions": [4, 4],
        **changes,
    }


def record(run: RunRecorder, steps: range) -> None:
    for step in steps:
        run.rollouts(step, [row(step), row(step, completion="<b>4</b>", outcome="wrong", reward=0.0)])
        run.step(step, {"reward": step / 10, "accuracy": step / 5, "seconds": 1.0})


# -- lines -----------------------------------------------------------------------------------------


def test_each_step_is_one_json_line_and_what_is_not_finite_is_null(tmp_path):
    run = recorder(tmp_path)
    run.step(1, {"reward": 0.5, "entropy": math.nan, "my/own": 3})
    run.evaluation(1, BEFORE)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "reward": 0.5, "entropy": null, "my/own": 3}\n'
    assert read_lines(tmp_path / "evaluations.jsonl") == [{"step": 1, **BEFORE}]


def test_stages_and_notes_are_in_the_log_with_their_time(tmp_path):
    run = recorder(tmp_path)
    run.stage("starting the vLLM server")
    run.note("plan: 64 completions a step")
    first, second = (tmp_path / "logs" / "run.log").read_text().splitlines()
    assert first[19:] == " starting the vLLM server"
    assert second[19:] == " plan: 64 completions a step"


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path):
    run = recorder(tmp_path)
    run.evaluation(0, BEFORE)
    record(run, range(1, 4))
    run.evaluation(3, AFTER)
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # killed while it wrote
    resumed = recorder(tmp_path, resume_step=2)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in read_lines(tmp_path / "evaluations.jsonl")] == [0]
    assert sorted(path.stem for path in (tmp_path / "rollouts").iterdir()) == ["step-000001", "step-000002"]
    record(resumed, range(3, 5))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_run_that_starts_afresh_keeps_nothing_of_an_earlier_one(tmp_path):
    run = recorder(tmp_path)
    run.evaluation(0, BEFORE)
    record(run, range(1, 3))
    recorder(tmp_path)
    assert read_lines(tmp_path / "metrics.jsonl") == read_lines(tmp_path / "evaluations.jsonl") == []
    assert list((tmp_path / "rollouts").iterdir()) == []


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_resumed_run_says_which_records_it_cannot_read_and_keeps_all_others(tmp_path):
    from datasets import load_dataset

    run = recorder(tmp_path)
    run.evaluation(0, BEFORE)
    run.evaluation(2, AFTER)
    record(run, range(1, 5))
    run.close()
    metrics, evaluations = tmp_path / "metrics.jsonl", tmp_path / "evaluations.jsonl"
    one, two, three, four = metrics.read_text().splitlines()
    metrics.write_text("\n".join([one, two.replace("step", "stfp"), three, four[:20]]))
    evaluations.write_text(evaluations.read_text().replace("accuracy", "acc", 1))
    rollouts = tmp_path / "rollouts"
    (rollouts / "step-000003.parquet").write_bytes(b"PAR1")
    resumed = recorder(tmp_path, resume_step=3)
    said = (tmp_path / "logs" / "run.log").read_text()
    assert f"{metrics}:2 cannot be read, and is left out: step: got None, expected a number" in said
    assert f"{metrics}:4 cannot be read, and is left out: " in said  # cut short by a kill
    assert f"{metrics} has no line of step 2" in said
    assert f"{evaluations}:1 cannot be read, and is left out: accuracy: got None, expected a number" in said
    assert f"{rollouts / 'step-000003.parquet'}: not a Parquet file, or damaged: " in said
    assert "it is kept as step-000003.parquet.damaged" in said
    record(resumed, range(4, 5))
    assert [line["step"] for line in read_lines(metrics)] == [1, 3, 4]
    assert [line["step"] for line in read_lines(evaluations)] == [2]
    files = str(rollouts / "*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(set(rows["step"])) == [1, 2, 4]


@pytest.mark.parametrize("line", [b"[1]", b"7", b"\xff", b"[" * 100_000, b'{"step": null}'])
def test_a_line_of_another_shape_is_said_and_the_ones_after_it_are_read(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    said = []
    assert read_lines(path, say=said.append) == [{"step": 1}, {"step": 2}]
    (sentence,) = said
    assert sentence.startswith(f"{path}:2 cannot be read, and is left out: ")


def test_a_flipped_byte_in_a_rollouts_file_is_found(tmp_path):
    record(recorder(tmp_path), range(1, 2))
    path = tmp_path / "rollouts" / "step-000001.parquet"
    assert len(read_rollouts(path)) == 2
    flip(path, path.read_bytes().index(b"\x28\xb5\x2f\xfd") + 8)  # in the first page, which is a zstd frame
    with pytest.raises(RecordError, match=r"step-000001\.parquet: not a Parquet file, or damaged: .*checksum"):
        read_rollouts(path)


# -- rollouts --------------------------------------------------------------------------------------


def test_datasets_opens_the_rollouts_of_all_steps_with_their_types(tmp_path):
    from datasets import load_dataset

    run = recorder(tmp_path)
    run.rollouts(1, [row(1, reward=None, rewards={"accuracy": None}, outcome=None, advantage=None)])
    run.rollouts(2, [])
    run.rollouts(3, [row(3), row(3, completion="é ✓ \U0001f600")])
    files = str(tmp_path / "rollouts" / "*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["step"][:] == [1, 3, 3]
    assert rows[0]["reward"] is None
    assert rows[0]["advantage"] is None
    texts = {"rewards": '{"accuracy": 1.0, "format": null}', "columns": '{"level": 1}', "extra": "{}"}
    assert rows[1] == {**row(3), **texts, "trained": None, "episode": None, "unmasking": None}  # of one turn
    assert rows[2]["completion"] == "é ✓ \U0001f600"


LONE = "a\ud800b"  # half of a pair, which a model's bytes or a dataset's \\u escape can make


def test_a_lone_surrogate_anywhere_in_a_row_is_written_as_something_readable(tmp_path):
    class Odd:
        def __str__(self):
            return LONE

    texts = {name: LONE for name in ("prompt", "prefill", "completion", "answer", "extracted", "reason")}
    messages = [{"role": "user", "content": LONE}]
    run = recorder(tmp_path)
    run.rollouts(1, [row(1, **texts, messages=messages, columns={LONE: [LONE], "odd": Odd()}, extra={"note": LONE})])
    run.note(LONE)
    run.step(1, {f"reward/{LONE}": 0.5})
    (got,) = read_rollouts(tmp_path / "rollouts" / "step-000001.parquet")
    assert all(got[name] == r"a\ud800b" for name in texts)
    assert json.loads(got["columns"]) == {r"a\ud800b": [r"a\ud800b"], "odd": r"a\ud800b"}
    assert json.loads(got["extra"]) == {"note": r"a\ud800b"}
    (group,) = part_of(write_report(tmp_path), "texts-000001-000")
    assert group["rows"][0]["completion"] == r"a\ud800b"
    assert (tmp_path / "logs" / "run.log").read_text(encoding="utf-8").endswith(" a\\ud800b\n")


# -- writing ---------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    write_atomic(path, "old")

    def interrupted(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_error_that_names_the_file_and_what_to_do(tmp_path):
    run = recorder(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; free some space"):
        run.step(1, {"reward": 0.5})


def test_a_line_that_a_full_disk_takes_in_part_is_taken_back(small_disk):
    path = small_disk / "metrics.jsonl"
    append_line(path, "whole")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; free some space"):
        append_line(path, "x" * 10_000)
    assert path.read_text() == "whole\n"


@pytest.mark.parametrize("leave", [0, 4096, 8192])
def test_a_full_disk_leaves_no_part_of_any_record(small_disk, leave):
    run_dir = small_disk / "run"
    run = recorder(run_dir)
    run.stage("training")
    record(run, range(1, 3))
    run.evaluation(0, {**BEFORE, "problems": {"p/1": 1.0}})
    there = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - leave))
    long = "".join(map(str, range(50_000)))
    writes = {
        "rollouts/step-000003.parquet": lambda: run.rollouts(3, [row(3, completion=long)]),
        "held_out/step-000003.json": lambda: run.evaluation(3, {**AFTER, "problems": {long: 1.0}}),
        "evaluations.jsonl": lambda: run.evaluation(3, {**AFTER, "outcomes": {long: 1}}),
        "metrics.jsonl": lambda: run.step(3, {long: 1.0}),
        "logs/run.log": lambda: run.stage(long),
        "summary.json": lambda: run.finish({"text": long}),
        "learning_curve.png": lambda: write_report(run_dir),
        "recipe.yaml": lambda: save_recipe(load_recipe("tiny_arithmetic_cpu"), run_dir / "recipe.yaml"),
    }
    if leave:
        del writes["recipe.yaml"]  # which is short
    for name, write in writes.items():
        with pytest.raises(OSError, match=rf"cannot write .*{name}: .*No space left on device.*; free some space"):
            write()
        assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == there


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError, match=r"cannot write .*log: Is a directory$"):
        append_line(tmp_path / "log", "text")


# -- trackers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr("grpo.record.trackers.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"{name} is not installed; run: pip install 'zero-rl\[{name}\]'"):
        recorder(tmp_path, trackers=[name])


def test_an_unknown_tracker_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(ValueError, match="got 'mlflow', expected one of tensorboard, wandb, trackio"):
        recorder(tmp_path, trackers=["mlflow"])


def test_a_tracker_that_is_not_installed_is_refused_before_there_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("grpo.record.trackers.find_spec", lambda package: None)
    monkeypatch.setattr("recipes.jobs.train.load_tokenizer", lambda model: pytest.fail("the model is loaded"))
    arguments = ["run", "tiny_arithmetic_cpu", "--set", "train.trackers=[wandb]", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith("error: train.trackers: wandb is not installed; run: pip install 'zero-rl[wandb]'\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fails", ["__init__", "start", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on_without_it(tmp_path, monkeypatch, fails):
    from accelerate import tracking

    class Lost(Exception):
        pass

    def method(name):
        def call(self, *args, **keywords):
            if name == fails:
                raise Lost("no network")
            if name == "log":
                self.logged.append(args)

        return call

    names = ("__init__", "start", "store_init_configuration", "log", "finish")
    failing = type("Failing", (), {"logged": [], **{name: method(name) for name in names}})
    sound = type("Sound", (), {"logged": [], **{name: method(name if name != fails else "") for name in names}})
    sound.log = lambda self, *args: self.logged.append(args)
    monkeypatch.setattr("grpo.record.trackers.find_spec", lambda package: True)
    monkeypatch.setattr(tracking, "WandBTracker", failing)
    monkeypatch.setattr(tracking, "TrackioTracker", sound)
    run = recorder(tmp_path, trackers=["wandb", "trackio"])
    run.evaluation(0, BEFORE)
    record(run, range(1, 4))
    run.close()
    run.close()
    sentence = "train.trackers: wandb failed (Lost: no network); the run goes on without it"
    assert (tmp_path / "logs" / "run.log").read_text().count(sentence) == 1
    assert run._console.file.getvalue().count(sentence) == 1
    assert [step for _, step in sound.logged] == [0, 1, 2, 3]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = recorder(tmp_path, trackers=["tensorboard"])
    run.evaluation(0, BEFORE)
    record(run, range(1, 4))
    run.close()
    resumed = recorder(tmp_path, trackers=["tensorboard"], resume_step=2)
    resumed.step(3, {"reward": 0.75, "entropy": math.nan})
    resumed.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("reward")] == [(1, 0.1), (2, 0.2), (3, 0.75)]
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("heldout/accuracy")] == [(0, 0.3)]
    assert "entropy" not in events.Tags()["scalars"]


def test_wandb_and_trackio_know_a_run_by_one_name_that_a_resume_keeps(tmp_path, monkeypatch):
    from accelerate import tracking

    started: list[str] = []

    class Tracker:
        def __init__(self, project, name, resume, **keywords):
            assert (project, resume) == ("zero-rl", "allow")
            self.name = name

        def start(self):
            started.append(self.name)

        def store_init_configuration(self, values):
            started.append(values["task.name"])

        def finish(self):
            pass

    monkeypatch.setattr("grpo.record.trackers.find_spec", lambda package: True)
    monkeypatch.setattr(tracking, "WandBTracker", Tracker)
    monkeypatch.setattr(tracking, "TrackioTracker", Tracker)
    for resume_step in (0, 2, 0):
        recorder(tmp_path, trackers=["wandb", "trackio"], resume_step=resume_step).close()
    first, second, again = started[0], started[6], started[4]
    assert started == [
        first,
        "arithmetic",
        first,
        "arithmetic",
        again,
        again,
        second,
        "arithmetic",
        second,
        "arithmetic",
    ]
    assert first == again != second


# -- report ----------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path) -> tuple[Path, str]:
    (tmp_path / "recipe.yaml").write_text("model: {path: tiny}\ntask: {name: arithmetic}\n")
    run = recorder(tmp_path)
    run.evaluation(0, BEFORE)
    record(run, range(1, 5))
    run.evaluation(4, AFTER)
    run.finish({"before": BEFORE, "after": AFTER, "steps": 4, "wall_seconds": 185.0, "engine": "vllm"})
    return tmp_path, run._console.file.getvalue()


def test_a_finished_run_has_its_summary_curve_and_page(finished):
    run_dir, printed = finished
    assert json.loads((run_dir / "summary.json").read_text())["after"] == AFTER
    assert (run_dir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out, │ its 95% interval" in printed
    assert printed.endswith(f"report: {run_dir / 'report.html'}\n")


def test_the_page_needs_no_network_and_holds_what_the_model_wrote(finished):
    page = (finished[0] / "report.html").read_text()
    assert "30.0% [25.0, 35.0] → 90.0% [86.0, 94.0]" in page
    assert "4 steps, 3m 05s, engine vllm" in page
    assert "<think>" not in page
    for step in range(1, 5):
        groups = part_of(finished[0] / "report.html", f"texts-{step:06d}-000")
        kept = read_rollouts(finished[0] / "rollouts" / f"step-{step:06d}.parquet")
        assert [row["completion"] for group in groups for row in group["rows"]] == [row["completion"] for row in kept]
    assert part_of(finished[0] / "report.html", "state")["steps"] == read_lines(finished[0] / "metrics.jsonl")


def test_the_curve_draws_the_accuracies_and_intervals_that_were_recorded(finished):
    axes = learning_curve(read_run(finished[0])).axes[0]
    training, held_out = axes.lines[0], axes.containers[0]
    assert [round(y) for y in training.get_ydata()] == [20, 40, 60, 80]
    assert list(held_out[0].get_ydata()) == [30.0, 90.0]
    (bars,) = held_out[2]
    assert [[round(float(y)) for _, y in segment] for segment in bars.get_segments()] == [[25, 35], [86, 94]]


def test_the_terminal_curve_rises_from_the_first_to_the_last_evaluation(finished):
    lines = terminal_curve(read_run(finished[0]), 80).splitlines()
    assert max(map(len, lines)) <= 80
    marks = [(line.index("●"), height) for height, line in enumerate(lines) if "●" in line and "held-out" not in line]
    (right, top), (left, bottom) = marks
    assert left < right
    assert top < bottom
    assert lines[0].strip() == "accuracy (%): ▞ training, ● held-out, │ its 95% interval"
    assert lines[-2].split() == ["0", "1", "2", "3", "4"]  # whole steps, and no legend within the frame
    assert not any("held-out" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("last", "shown"), [(1, [0, 1]), (9, [0, 2, 4, 6, 8]), (60, range(0, 61, 10)), (1234, range(0, 1201, 200))]
)
def test_the_axis_of_steps_has_whole_round_numbers(last, shown):
    assert whole_steps(last) == list(shown)


def test_a_report_says_what_it_cannot_read_and_shows_the_rest(finished):
    run_dir, _ = finished
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    (run_dir / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    (run_dir / "evaluations.jsonl").write_bytes(b"\xff\xfe\n" + (run_dir / "evaluations.jsonl").read_bytes())
    (run_dir / "summary.json").write_text("[]")
    (run_dir / "recipe.yaml").write_text("- a\n")
    for step in (2, 4):
        (run_dir / "rollouts" / f"step-{step:06d}.parquet").write_bytes(b"")
    result = CliRunner().invoke(main, ["report", str(run_dir)])
    assert result.exit_code == 0
    page = html.unescape((run_dir / "report.html").read_text())
    for expected in (
        f"{run_dir / 'metrics.jsonl'}:2 cannot be read, and is left out: ",
        f"{run_dir / 'metrics.jsonl'} has no line of step 2",
        f"{run_dir / 'evaluations.jsonl'}:1 cannot be read, and is left out: ",
        f"{run_dir / 'summary.json'} cannot be read: []; expected an object",
        f"{run_dir / 'recipe.yaml'} cannot be read: ",
        f"{run_dir / 'rollouts' / 'step-000002.parquet'}: not a Parquet file, or damaged: ",
        f"{run_dir / 'rollouts' / 'step-000004.parquet'}: not a Parquet file, or damaged: ",
    ):
        assert expected in page
        assert expected in result.stderr
    assert "3 steps, not finished" in page
    assert "90.0% [86.0, 94.0]" in page
    assert part_of(run_dir / "report.html", "texts-000001-000")


def part_of(report: Path, name: str) -> Any:
    """A part of JSON that the page holds."""
    found = re.search(f'id="part-{name}">([A-Za-z0-9+/=]*)</script>', report.read_text(encoding="utf-8"))
    return json.loads(gzip.decompress(base64.b64decode(found.group(1))))


def test_where_nothing_is_graded_no_accuracy_is_shown(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {path: tiny}\ntask: {name: arithmetic}\n")
    prompt = Prompt("p/1", "1+1=", (5,), "2")
    group = Group(prompt, (Completion((1,), (0.0,), (0,), "two", "stop"),) * 2)
    metrics = rollout_metrics([ScoredGroup(group, (Reward(0.5), Reward(0.25)))], [[1.0, -1.0]], asked=2)
    assert math.isnan(metrics["accuracy"])
    run = recorder(tmp_path)
    run.evaluation(0, {"accuracy": 0.0, "low": 0.0, "high": 1.0, "n": 0})
    run.step(1, {**metrics, "seconds": 1.0})
    run.finish({"steps": 1})
    printed = run._console.file.getvalue()
    assert read_lines(tmp_path / "metrics.jsonl")[0]["accuracy"] is None
    assert "held-out accuracy after step 0: none, no answer could be graded" in printed
    page = (tmp_path / "report.html").read_text()
    assert "0.0%" not in printed + page
    assert "Held-out accuracy" not in page
    assert learning_curve(read_run(tmp_path)).axes[0].lines[:] == []


def test_an_unfinished_run_can_be_reported(tmp_path):
    run = recorder(tmp_path)
    record(run, range(1, 3))
    page = write_report(tmp_path).read_text()
    assert "2 steps, not finished" in page


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run directory .* no metrics\.jsonl"):
        write_report(tmp_path)


def test_a_run_is_named_after_its_model_and_task():
    assert run_title(RECIPE) == "Zero: tiny on arithmetic"
    assert run_title({"model": {"path": "org/name"}, "task": {"name": None, "dataset": "a.jsonl"}}) == (
        "Zero: name on a.jsonl"
    )


def test_recording_and_reporting_import_no_torch():
    code = "import sys, grpo.record.recorder, grpo.record.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
