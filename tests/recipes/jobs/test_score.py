"""`zero score` through the command itself: a file, a run under another reward, and each way to be given bad data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from grpo.signal.advantage import group_advantages
from recipes.command.main import main
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

ROWS = [
    {"completion": "<think>t</think><answer>42</answer>", "answer": "42", "level": 1},
    {"completion": "<think>t</think><answer>41</answer>", "answer": 42, "level": 2},
    {"completion": [{"role": "assistant", "content": "\\boxed{42}"}], "answer": "42", "level": 3},
    {"completion": "no idea", "answer": "42"},
]
REWARDS = '''
def level(completions, level, factor=1):
    return [None if value is None else factor * value for value in level]

def digits(completions, **columns):
    """Share of digits, of texts and of chats."""
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in texts]

def letters(completions, completion_ids, prompts, level, answer, trainer_state, **columns):
    """Needs what a run's rollouts hold of each completion; it pays for anything but digits."""
    assert all(prompt.endswith("=") for prompt in prompts) and set(level) == {1}
    assert trainer_state.max_steps == 2 and trainer_state.global_step in (0, 1)
    assert all(0 < len(ids) <= 8 for ids in completion_ids) and all(str(int(one)) == one for one in answer)
    return [1 - value for value in digits(completions)]
'''


def zero_score(*arguments: Any) -> Any:
    result = CliRunner().invoke(main, ["score", *map(str, arguments)])
    assert "Traceback" not in result.output
    if result.exit_code not in (0, 2):
        raise result.exception
    return result


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(REWARDS)
    return write(tmp_path / "data.jsonl", ROWS)


# -- a file ----------------------------------------------------------------------------------------


def test_each_line_gets_value_outcome_extracted_and_reason_in_order(data, tmp_path):
    result = zero_score("--reward", "accuracy", "--data", data, "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    got = lines(tmp_path / "out.jsonl")
    assert [list(line) for line in got] == [["value", "outcome", "extracted", "reason"]] * 4
    assert [(line["value"], line["outcome"], line["extracted"]) for line in got] == [
        (1.0, "correct", "42"),
        (0.0, "wrong", "41"),
        (1.0, "correct", "42"),
        (0.0, "no_answer", None),
    ]
    assert all(line["reason"] for line in got)
    assert str(tmp_path / "out.jsonl") in result.stdout


def test_the_summary_has_the_mean_its_n_and_the_outcomes(data):
    assert zero_score("--reward", "accuracy", "--data", data).stdout.splitlines() == [
        f"{data}: 4 completions",
        "reward  mean 0.5000 of 4",
        "outcomes: correct 2 (50.0%), wrong 1 (25.0%), no_answer 1 (25.0%)",
        "every completion: give --output FILE.jsonl for one line each",
    ]


def test_a_reward_that_is_no_verdict_has_null_outcomes_and_null_where_it_does_not_apply(data, tmp_path):
    out = tmp_path / "out.jsonl"
    result = zero_score("--reward", f"{tmp_path}/mine.py:level", "--arg", "factor=2", "--data", data, "--output", out)
    assert [line["value"] for line in lines(out)] == [2.0, 4.0, 6.0, None]
    assert {line["outcome"] for line in lines(out)} == {line["reason"] for line in lines(out)} == {None}
    assert "mean 4.0000 of 3" in result.stdout
    assert "without a value: failed, or no reward applies 1 (25.0%)" in result.stdout


def test_several_rewards_are_summed_with_their_weights_and_arguments(data, tmp_path):
    out, mine = tmp_path / "out.jsonl", f"{tmp_path}/mine.py:level"
    result = zero_score(
        *("--reward", "accuracy", "--weight", 1, "--reward", mine, "--weight", 0.5, "--data", data, "--output", out),
        *("--arg", "level.factor=10", "--arg", "accuracy.read=[boxed]"),
    )
    got = lines(out)
    assert [line["value"] for line in got] == [5.0, 10.0, 16.0, 0.0]  # 0.5 * 10 * level, and 1 for \boxed{42}
    assert got[2]["parts"] == {"accuracy": 1.0, "level": 30.0}
    assert "  accuracy  mean 0.2500 of 4" in result.stdout
    assert "  level     mean 20.0000 of 3" in result.stdout


def test_trl_rewards_score_texts_and_chats_alike(tmp_path):
    texts = ["<think>t</think> \\boxed{42}", "\\boxed{41}"]
    rows = [{"completion": text, "solution": "$42$", "completion_ids": [1] * 8} for text in texts]
    chats = [{**row, "completion": [{"role": "assistant", "content": row["completion"]}]} for row in rows]
    overlong = ["--reward", "trl.rewards:get_soft_overlong_punishment"]
    overlong += ["--arg", "max_completion_len=10", "--arg", "soft_punish_cache=4"]
    for data in (write(tmp_path / "texts.jsonl", rows), write(tmp_path / "chats.jsonl", chats)):
        for options, values in (
            (["--reward", "trl.rewards:accuracy_reward"], [1.0, 0.0]),
            (["--reward", "trl.rewards:think_format_reward"], [1.0, 0.0]),
            (overlong, [-0.5, -0.5]),  # (10 - 4 - 8) / 4
        ):
            zero_score(*options, "--data", data, "--output", tmp_path / "out.jsonl")
            assert [line["value"] for line in lines(tmp_path / "out.jsonl")] == values


def test_an_argument_may_take_a_column_of_another_name(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"completion": "\\boxed{42}", "answer": gold} for gold in ("42", "41")])
    options = ["--reward", "trl.rewards:accuracy_reward", "--column", "solution=answer"]
    assert "mean 0.5000 of 2" in zero_score(*options, "--data", data).stdout
    assert "(columns: solution=NAME gives it another)" in zero_score(*options[:2], "--data", data).stderr


def test_what_a_line_separator_or_null_byte_in_a_text_does_to_the_lines_is_nothing(tmp_path):
    rows = [{"completion": f"\u2028\x00\x85<answer>{n}</answer>", "answer": "42"} for n in (41, 42)]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    zero_score("--reward", "accuracy", "--data", tmp_path / "data.jsonl", "--output", tmp_path / "out.jsonl")
    assert [line["outcome"] for line in lines(tmp_path / "out.jsonl")] == ["wrong", "correct"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"completion": "a", "answer": "1"}\n{"completion": "a",\n', ":2: not JSON: Expecting"),
        ('{"completion": "a", "answer": "1"}\n\n{"completion": "b", "answer": "1"}\n', ":2: not JSON"),
        ("[1, 2]\n", ":1: got list, expected an object with `completion`"),
        ('{"text": "a", "answer": "1"}\n', ":1: no `completion`; the line has text, answer"),
        ('{"completion": 3, "answer": "1"}\n', ":1: completion: got '3', expected a string or a list of messages"),
        ('{"completion": ["a"], "answer": "1"}\n', ":1: completion: got "),
        ('{"completion": "a"}\n', "needs the column 'answer'; the data has []"),
        ('{"completion": "a", "gold": "1"}\n', "needs the column 'answer'; the data has ['gold']"),
        ('{"completion": "a", "answer": "1"}\n{"completion": "a"}\n', ":2: no `answer`, which other lines have"),
        ("", " is empty; expected one object a line"),
        ("\xff", ": not a text file in UTF-8"),
        ('{"completion": "x", "answer": ' + "9" * 5000 + "}", ":1: not JSON: Exceeds the limit"),
    ],
)
def test_bad_data_is_one_message_that_names_file_and_line(tmp_path, content, message):
    data = tmp_path / "data.jsonl"
    data.write_bytes(content.encode("latin-1"))
    result = zero_score("--reward", "accuracy", "--data", data, "--output", tmp_path / "out.jsonl")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {data}")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reward", "acuracy"], "did you mean 'accuracy'"),
        (["--reward", "accuracy", "--arg", "read"], "--arg read: expected KEY=VALUE"),
        (["--reward", "accuracy", "--arg", "read=["], "--arg read=[: '[' is not a YAML value"),
        (["--reward", "accuracy", "--arg", "raed=[tag]"], "no argument raed"),
        (["--reward", "accuracy", "--reward", "format", "--arg", "read=[tag]"], "NAME one of accuracy, format"),
        (
            ["--reward", "accuracy", "--reward", "format", "--weight", "2"],
            "a finite number for each of accuracy, format",
        ),
        (["--reward", "accuracy", "--weight", "inf"], "expected a finite number"),
        (["--reward", "accuracy", "--reward", "accuracy"], "each with a name of its own"),
        (["--reward", "accuracy", "--column", "answer"], "--column answer: expected ARGUMENT=COLUMN"),
        (
            ["--reward", "accuracy", "--column", "answer=gold"],
            "columns: no column gold; the data has ['answer', 'level']",
        ),
        (["--reward", "trl.rewards:get_soft_overlong_punishment"], "missing 2 required positional arguments"),
    ],
)
def test_bad_options_are_one_message(data, options, message):
    result = zero_score(*options, "--data", data)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_data_that_is_not_there_or_is_the_output_is_refused(data, tmp_path):
    assert "there is no such file or directory" in zero_score("--reward", "format", "--data", tmp_path / "no").stderr
    before = data.read_text()
    result = zero_score("--reward", "format", "--data", data, "--output", data)
    assert result.exit_code == 2
    assert "is the data itself" in result.stderr
    assert data.read_text() == before


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that pays for digits."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 6},
        "rewards": [{"name": "mine.py:digits"}],
        # 4 of 6 problems a step: the second step has prompts of two epochs
        "rollout": {"engine": "transformers", "group_size": 4, "prompts_per_step": 4, "max_tokens": 8},
        "train": {"steps": 2, "loss": "dr_grpo"},
        "eval": {"problems": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(load_recipe(str(folder / "recipe.yaml")), "test", folder / "out", resume=False) == 0
    return folder / "out"


def rollouts(run_dir: Path) -> list[dict[str, Any]]:
    files = sorted((run_dir / "rollouts").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.mark.slow
def test_a_run_under_its_own_reward_is_as_it_was(finished, tmp_path):
    spec, out = f"{finished.parent}/mine.py:digits", tmp_path / "out.jsonl"
    result = zero_score("--reward", spec, "--data", finished, "--output", out)
    rows, got = rollouts(finished), lines(out)
    assert len(got) == len(rows) == 2 * 4 * 4
    for line, row in zip(got, rows, strict=True):
        assert (line["step"], line["prompt_id"]) == (row["step"], row["prompt_id"])
        assert line["value"] == line["value_before"] == row["reward"]
        assert line["advantage"] == line["advantage_before"] == row["advantage"]  # as the run had computed them
    assert "advantages that change sign: + to - 0 (0.0%), - to + 0 (0.0%)" in result.stdout


def test_the_opposite_reward_turns_every_sign_around(finished, tmp_path):
    spec, out = f"{finished.parent}/mine.py:letters", tmp_path / "out.jsonl"
    result = zero_score("--reward", spec, "--data", finished, "--output", out)
    got = lines(out)
    before = [line["advantage_before"] for line in got]
    assert any(before)
    assert [line["advantage"] for line in got] == pytest.approx([-value for value in before])
    up, down = sum(value > 1e-9 for value in before), sum(value < -1e-9 for value in before)
    said = result.stdout.splitlines()
    assert f"advantages that change sign: + to - {up} ({up / 32:.1%}), - to + {down} ({down / 32:.1%})" in said
    assert [line.split() for line in said if line.strip().startswith(("+ ", "- ", "0 "))] == [
        ["+", "0", str(up), "0", "0"],
        ["-", str(down), "0", "0", "0"],
        ["0", "0", "0", str(32 - up - down), "0"],
    ]
    first = next(line for line in got if abs(line["advantage"]) > 1e-9)
    shown = said.index(
        next(line for line in said if line.startswith(f"step {first['step']}, {first['prompt_id']}: reward"))
    )
    row = rollouts(finished)[got.index(first)]
    assert f"reward {row['reward']:.3g} -> {1 - row['reward']:.3g}, advantage" in said[shown]
    assert said[shown + 1] == f"  problem    {row['prompt']!r}"
    assert said[shown + 2] == f"  completion {row['completion']!r}"


def test_groups_are_those_of_training_also_where_epochs_meet(finished, tmp_path):
    zero_score("--reward", f"{finished.parent}/mine.py:letters", "--data", finished, "--output", tmp_path / "out.jsonl")
    values = [line["value"] for line in lines(tmp_path / "out.jsonl")]
    expected = [a for i in range(0, 32, 4) for a in group_advantages(values[i : i + 4], "group_mean")]
    assert [line["advantage"] for line in lines(tmp_path / "out.jsonl")] == expected


def test_a_run_that_was_killed_can_be_scored_too(finished, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    for name in ("summary.json", "report.html"):
        (broken / name).unlink()
    (broken / "rollouts" / "step-000002.parquet").rename(broken / "rollouts" / ".step-000002.parquet.partial")
    result = zero_score("--reward", "format", "--data", broken)
    assert result.exit_code == 0
    assert f"{broken}: 16 completions" in result.stdout


def test_a_run_without_the_columns_and_a_folder_that_is_no_run_are_refused(finished, tmp_path):
    assert "is no run with a finished step" in zero_score("--reward", "format", "--data", tmp_path).stderr
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    path = old / "rollouts" / "step-000001.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns(["group", "prefill", "columns"]), path)
    result = zero_score("--reward", "format", "--data", old)
    assert result.exit_code == 2
    assert f"{path}: no column columns, group, prefill: the run is of a version" in result.stderr


def test_damaged_rollouts_are_refused_with_the_file_and_what_to_do(finished, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    path = broken / "rollouts" / "step-000001.parquet"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x28\xb5\x2f\xfd") + 8] ^= 1  # in the first page
    for content in (b"not parquet", b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        result = zero_score("--reward", "format", "--data", broken)
        assert result.exit_code == 2
        assert f"{path}: not a Parquet file, or damaged: " in result.stderr
        assert f"Move {path} out of the run's directory to score the other steps" in result.stderr


def test_a_lone_surrogate_is_written_as_something_readable(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"completion": "<answer>a\ud800b</answer>", "answer": "1"}])
    out = tmp_path / "out.jsonl"
    assert zero_score("--reward", "accuracy", "--data", data, "--output", out).exit_code == 0
    assert lines(out)[0]["extracted"] == r"a\ud800b"
