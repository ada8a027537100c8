"""What a run leaves behind: lines, Parquet, trackers, report; whole, resumable, with errors that name the file."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from grpo.atomic import append_line, write_atomic
from grpo.metrics import RunRecorder
from grpo.report import learning_curve, read_lines, read_run, run_title, terminal_curve, write_report

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
    assert rows[1] == {**row(3), **texts}
    assert rows[2]["completion"] == "é ✓ \U0001f600"


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


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError, match=r"cannot write .*log: Is a directory$"):
        append_line(tmp_path / "log", "text")


# -- trackers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr("grpo.trackers.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"{name} is not installed; run: pip install 'zero-rl\[{name}\]'"):
        recorder(tmp_path, trackers=[name])


def test_an_unknown_tracker_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(ValueError, match="got 'mlflow', expected one of tensorboard, wandb, trackio"):
        recorder(tmp_path, trackers=["mlflow"])


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

    monkeypatch.setattr("grpo.trackers.find_spec", lambda package: True)
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
    assert "held-out, 95% interval" in printed
    assert printed.endswith(f"report: {run_dir / 'report.html'}\n")


def test_the_page_needs_no_network_and_shows_what_the_model_wrote_as_text(finished):
    page = (finished[0] / "report.html").read_text()
    assert "30.0% [25.0, 35.0] → 90.0% [86.0, 94.0]" in page
    assert "4 steps, 3m 05s, engine vllm" in page
    assert "1+2=&lt;think&gt;" in page
    assert "<think>" not in page
    assert "step-000001" in page
    assert "step-000004" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 2


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
    code = "import sys, grpo.metrics, grpo.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
