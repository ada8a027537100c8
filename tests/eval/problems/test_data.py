"""Rows from files, folders and the hub, and the gold answer in a column's value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.problems.data import ColumnError, DataError, as_written, checked_pattern, gold_answer, open_splits, read_rows
from rewards import grader

ROOT = Path(__file__).parents[3]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(place, name=None):
    return open_splits(str(place), None, name, "give a folder")


def sums(n):
    return [{"q": f"{i} + 1", "a": str(i + 1)} for i in range(n)]


def test_rows_keep_the_files_order_and_their_ids_do_not_depend_on_the_limit(tmp_path):
    splits = opened(write(tmp_path / "sums" / "test.jsonl", sums(5)).parent)
    every = list(read_rows(splits, "test", "sums", ["q", "a"]))
    assert [row_id for row_id, _ in every] == [f"sums/test/{i}" for i in range(5)]
    assert [row for _, row in every] == sums(5)
    assert list(read_rows(splits, "test", "sums", ["q", "a"], limit=2)) == every[:2]
    assert list(read_rows(splits, "test", "sums", ["q", "a"], limit=99)) == every


def test_a_file_is_one_split_and_a_folder_has_one_for_each_file(tmp_path):
    write(tmp_path / "test.jsonl", sums(2))
    write(tmp_path / "hard-ones.jsonl", sums(3))
    assert {name: len(rows) for name, rows in opened(tmp_path).items()} == {"test": 2, "hard_ones": 3}
    assert list(opened(tmp_path / "test.jsonl")) == ["train"]


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    from datasets import Dataset

    Dataset.from_list(sums(4)).to_parquet(str(tmp_path / "p" / "test.parquet"))
    write(tmp_path / "j" / "test.jsonl", sums(4))
    both = [list(read_rows(opened(tmp_path / kind), "test", "sums", ["q"])) for kind in ("p", "j")]
    assert both[0] == both[1]


def test_a_missing_split_or_column_lists_what_there_is_and_the_nearest(tmp_path):
    splits = opened(write(tmp_path / "test.jsonl", sums(1)).parent)
    with pytest.raises(DataError) as split:
        read_rows(splits, "tets", "sums", [])
    assert str(split.value) == "sums has no split 'tets' (did you mean 'test'?); it has test"
    with pytest.raises(ColumnError) as column:
        read_rows(splits, "test", "sums", ["q", "gold"])
    assert str(column.value) == "sums has no column 'gold'; it has q, a"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.jsonl", b"{not json\n", "JSON parse error.*; expected one JSON object a line"),
        ("t.jsonl", b"", "it holds no rows; expected one JSON object a line"),
        ("t.jsonl", b"\n", "it holds no rows; expected one JSON object a line"),
        ("t.parquet", b"PAR1 cut", "Parquet magic bytes not found.*; expected a Parquet file"),
    ],
)
def test_a_broken_or_empty_file_is_named_with_what_was_expected(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} cannot be loaded: {reason}"):
        opened(tmp_path / name)


@pytest.mark.parametrize("place", ["nowhere", "./no/where", "a/b/c"])
def test_what_is_neither_there_nor_a_hub_id_does_not_exist(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"does not exist; expected a .jsonl or .parquet file, a folder .* or a hub id"):
        opened(place)


@pytest.mark.slow
def test_a_hub_out_of_reach_is_named_with_what_to_do():
    call = "open_splits('some/set', None, None, 'give a folder: --data-dir DIR')"
    code = f"from eval.problems.data import open_splits; {call}"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=offline)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "eval.problems.data.DataError: some/set cannot be loaded: Couldn't reach 'some/set' on the Hub"
    )
    assert last.endswith("Without a connection to the hub, give a folder: --data-dir DIR")


@pytest.mark.parametrize(
    ("value", "pattern", "gold"),
    [
        (" 42 ", None, "42"),
        (36.0, None, "36.0"),
        (None, None, None),
        ("", None, None),
        ("a #### 1\n#### 2", r"####\s*(.+)", "2"),
        ("no hashes", r"####\s*(.+)", None),
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"$\boxed{\left\{1, 2\right\}}$", "boxed", r"\left\{1, 2\right\}"),
        (r"the answer is $\boxed 5$.", "boxed", "5"),
        (r"cut \boxed{1", "boxed", None),
        ("nothing", "boxed", None),
    ],
)
def test_gold_answers_are_read_from_the_column(value, pattern, gold):
    assert gold_answer(value, pattern) == gold


@pytest.mark.parametrize("pattern", [None, "boxed", r"####\s*(.+)"])
def test_a_pattern_with_one_group_is_taken(pattern):
    assert checked_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("####", "with 0 groups"), ("(a)(b)", "with 2 groups")]
)
def test_a_pattern_that_cannot_find_the_answer_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        checked_pattern(pattern)


@pytest.mark.parametrize(("gold", "letters"), [("C", "C"), ("2", "C"), ("Rome", "C"), ("A, C", "A, C")])
def test_a_multiple_choice_gold_is_written_as_letters_that_pass(gold, letters):
    columns = {"choices": ["Paris", "Oslo", "Rome"]}
    written = as_written(gold, columns, "multiple_choice")
    assert written == letters
    score = grader("multiple_choice")(f"<answer>{written}</answer>", {**columns, "answer": gold})
    assert score.outcome == "correct"
