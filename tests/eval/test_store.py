"""Generations on disk: whole lines whatever happens, nothing twice, a Parquet file at the end."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.store import LINES, PARQUET, Store, StoreError, read_generations
from eval.types import Generation

ROOT = Path(__file__).parents[2]


def generation(problem=17, sample=0, **changes):
    usual = Generation(
        benchmark="gsm8k",
        problem_id=f"gsm8k/test/{problem}",
        sample=sample,
        question="How many?",
        answer="18",
        completion="<think>ünïcode\nand lines</think><answer>18</answer>",
        value=1.0,
        outcome="correct",
        extracted="18",
        reason="18 is 18",
        tokens=20,
        finish_reason="stop",
    )
    return dataclasses.replace(usual, **changes)


def failed(**changes):
    nothing = {"completion": "", "value": None, "outcome": None, "extracted": None, "tokens": None}
    return generation(
        **(nothing | {"reason": "no answer in 5 s", "failure": "timeout", "finish_reason": None} | changes)
    )


def test_a_generation_is_on_disk_when_append_returns(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation())
        (line,) = (tmp_path / LINES).read_text().splitlines()
        assert json.loads(line) == dataclasses.asdict(generation())


def test_what_was_stored_is_read_again_by_the_next_process_and_is_known_to_have_come(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation(1))
        store.append(failed(problem=2))
    with Store(tmp_path) as store:
        assert store.read() == [generation(1), failed(problem=2)]
        assert store.came(("gsm8k", "gsm8k/test/1", 0))
        assert not store.came(("gsm8k", "gsm8k/test/2", 0))
        assert not store.came(("gsm8k", "gsm8k/test/1", 1))
        assert not store.came(("math500", "gsm8k/test/1", 0))


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_torn_last_line_is_dropped_and_the_next_line_stands_alone(tmp_path, cut):
    with Store(tmp_path) as store:
        store.append(generation(1))
        store.append(generation(2))
    lines = tmp_path / LINES
    os.truncate(lines, lines.stat().st_size - cut)
    assert read_generations(tmp_path) == [generation(1)]
    with Store(tmp_path) as store:
        assert not store.came(("gsm8k", "gsm8k/test/2", 0))
        store.append(generation(2))
    assert read_generations(tmp_path) == [generation(1), generation(2)]
    assert len(lines.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"{not json\n", ":2: not a generation of an evaluation (Invalid JSON"),
        (b"\xff\xfe\x00\n", ":2: not a generation of an evaluation (Invalid JSON"),
        (b"[1]\n", ":2: not a generation of an evaluation (Input should be an object)"),
        (b'{"benchmark": "gsm8k"}\n', ":2: not a generation of an evaluation (problem_id Field required)"),
        ("sample", ":2: not a generation of an evaluation (sample Input should be a valid integer)"),
        ("value", ":2: not a generation of an evaluation (value Input should be a valid number)"),
    ],
)
def test_a_damaged_line_is_passed_over_and_said_and_what_it_held_is_asked_for_again(tmp_path, damaged, said):
    with Store(tmp_path) as store:
        for problem in (1, 2, 3):
            store.append(generation(problem))
    lines = (tmp_path / LINES).read_bytes().splitlines(keepends=True)
    if isinstance(damaged, str):  # of the wrong type
        damaged = json.dumps({**json.loads(lines[1]), damaged: "one"}).encode() + b"\n"
    (tmp_path / LINES).write_bytes(lines[0] + damaged + lines[2] + lines[2][:20])
    with Store(tmp_path) as store:
        assert len(store.passed_over) == 2
        assert store.passed_over[0].endswith(":4: the beginning of a line")
        assert said in store.passed_over[1]
        assert [store.came(("gsm8k", f"gsm8k/test/{problem}", 0)) for problem in (1, 2, 3)] == [True, False, True]
        with pytest.raises(StoreError, match="another process is writing"):
            Store(tmp_path)  # also into the file that was written anew
        store.append(generation(2))
        store.finish()
    assert read_generations(tmp_path) == [generation(problem) for problem in (1, 2, 3)]


def test_a_line_that_is_there_twice_counts_once(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation(1))
    content = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(content * 2)
    with Store(tmp_path) as store:
        assert store.passed_over == []
        assert store.read() == [generation(1)]


def test_a_damaged_parquet_file_is_set_aside_and_what_it_held_is_asked_for_again(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation(1))
        store.finish()
    content = bytearray((tmp_path / PARQUET).read_bytes())
    content[-20] ^= 0xFF
    (tmp_path / PARQUET).write_bytes(content)
    with Store(tmp_path) as store:
        (said,) = store.passed_over
        assert said.endswith("; it is kept as generations.parquet.damaged")
        assert not store.came(("gsm8k", "gsm8k/test/1", 0))
        store.append(generation(1))
        store.finish()
    assert read_generations(tmp_path) == [generation(1)]
    assert (tmp_path / f"{PARQUET}.damaged").read_bytes() == bytes(content)


def test_a_generation_that_came_cannot_be_stored_twice(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation())
        with pytest.raises(ValueError, match="stored already"):
            store.append(generation(completion="another"))
        with pytest.raises(ValueError, match="stored already"):
            store.append(failed())
    with Store(tmp_path) as store, pytest.raises(ValueError, match="stored already"):
        store.append(generation())
    assert read_generations(tmp_path) == [generation()]


def test_one_that_came_stands_in_for_its_failures(tmp_path):
    with Store(tmp_path) as store:
        store.append(failed())
        store.append(failed(failure="server"))
        store.append(generation())
    assert read_generations(tmp_path) == [generation()]


def test_the_parquet_file_holds_the_same_rows_in_the_order_of_their_problems(tmp_path):
    rows = [generation(problem, sample) for problem in (10, 9, 1) for sample in (1, 0)]
    with Store(tmp_path) as store:
        for row in rows:
            store.append(row)
        path = store.finish()
    assert path == tmp_path / PARQUET
    assert sorted(file.name for file in tmp_path.iterdir()) == [PARQUET]
    assert [(row.problem_id[-2:], row.sample) for row in read_generations(tmp_path)] == [
        ("/1", 0), ("/1", 1), ("/9", 0), ("/9", 1), ("10", 0), ("10", 1),
    ]  # fmt: skip
    assert set(read_generations(path)) == set(rows)


def test_columns_that_are_empty_in_every_row_keep_their_types(tmp_path):
    with Store(tmp_path) as store:
        store.append(failed())
        schema = pq.read_schema(store.finish())
    assert {str(schema.field(name).type) for name in ("subject", "extracted", "outcome")} == {"string"}
    assert str(schema.field("value").type) == "double"


def test_a_finished_evaluation_takes_what_had_failed_and_finishes_again(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation(1))
        store.append(failed(problem=2))
        store.finish()
    with Store(tmp_path) as store:
        assert store.came(("gsm8k", "gsm8k/test/1", 0))
        store.append(generation(2))
        store.finish()
    assert read_generations(tmp_path) == [generation(1), generation(2)]
    assert not (tmp_path / LINES).exists()


def test_killed_between_the_parquet_file_and_the_removal_of_the_lines_no_row_is_there_twice(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation(1))
        lines = (tmp_path / LINES).read_bytes()
        store.finish()
    (tmp_path / LINES).write_bytes(lines)
    assert read_generations(tmp_path) == [generation(1)]
    with Store(tmp_path) as store:
        assert store.came(("gsm8k", "gsm8k/test/1", 0))


def test_a_full_disk_is_one_message_that_names_the_file(tmp_path):
    (tmp_path / LINES).symlink_to("/dev/full")
    message = r"cannot write .*generations.jsonl: No space left on device; free some space there"
    with Store(tmp_path) as store, pytest.raises(OSError, match=message):
        store.append(generation())


def test_the_parquet_file_is_on_the_disk_before_the_lines_it_replaces_are_deleted(tmp_path, monkeypatch):
    done = []

    def noting(name, call):
        def wrapped(target, *args, **keywords):
            done.append((name, os.readlink(f"/proc/self/fd/{target}") if name == "fsync" else str(target)))
            return call(target, *args, **keywords)

        return wrapped

    with Store(tmp_path) as store:
        store.append(generation())
        monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
        monkeypatch.setattr(Path, "rename", noting("rename", Path.rename))
        monkeypatch.setattr(Path, "unlink", noting("unlink", Path.unlink))
        store.finish()
    partial, lines = str(tmp_path / f".{PARQUET}.partial"), str(tmp_path / LINES)
    order = [("fsync", partial), ("rename", partial), ("fsync", str(tmp_path)), ("unlink", lines)]
    assert [one for one in done if one in order] == order


def test_a_lone_surrogate_is_stored_as_something_readable(tmp_path):
    half = "a\ud800b"  # half of a pair, as a server's answer may hold it
    row = generation(completion=half, question=half, extracted=half, reason=half)
    with Store(tmp_path) as store:
        store.append(row)
        store.finish()
    text = r"a\ud800b"
    assert read_generations(tmp_path) == [generation(completion=text, question=text, extracted=text, reason=text)]


def test_a_damaged_parquet_file_is_said(tmp_path):
    with Store(tmp_path) as store:
        store.append(generation())
        path = store.finish()
    content = bytearray(path.read_bytes())
    content[content.index(b"\x28\xb5\x2f\xfd") + 8] ^= 1  # in the first page
    for damaged in (bytes(content), bytes(content[:100]), b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"generations.parquet: not the generations of an evaluation, or damaged"):
            read_generations(tmp_path)


def test_a_disk_that_is_full_at_the_end_keeps_the_lines_and_leaves_no_part_of_the_parquet_file(small_disk):
    with Store(small_disk / "eval") as store:
        store.append(generation())
        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        with pytest.raises(OSError, match=r"cannot write .*generations.parquet: .*No space left .*; free some space"):
            store.finish()
    assert [path.name for path in (small_disk / "eval").iterdir()] == [LINES]
    assert read_generations(small_disk / "eval") == [generation()]


FILL = """
import resource, sys
from pathlib import Path
from eval.store import Store
from tests.eval.test_store import generation

resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # as a disk that has room for a part of a line
with Store(Path(sys.argv[1])) as store:
    for problem in range(100):
        try:
            store.append(generation(problem))
        except OSError as error:
            sys.exit(f"{problem}: {error}")
"""


@pytest.mark.slow
def test_a_line_that_fits_in_part_is_taken_back_and_what_is_stored_stays_valid(tmp_path):
    done = subprocess.run([sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True, cwd=ROOT)
    stored, _, message = done.stderr.partition(":")
    assert "cannot write" in message
    assert 5 < int(stored) < 20
    assert (tmp_path / LINES).read_bytes().endswith(b"}\n")
    assert read_generations(tmp_path) == [generation(problem) for problem in range(int(stored))]


def test_two_processes_cannot_write_to_one_evaluation(tmp_path):
    with Store(tmp_path), pytest.raises(StoreError, match="another process is writing"):
        Store(tmp_path)


def test_what_is_no_evaluation_is_said(tmp_path):
    with pytest.raises(StoreError, match="holds no generations"):
        read_generations(tmp_path)
    with pytest.raises(StoreError, match="holds no generations"):
        read_generations(tmp_path / "absent")
    (tmp_path / PARQUET).write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"generations.parquet: not the generations of an evaluation"):
        read_generations(tmp_path)
    (tmp_path / PARQUET).unlink()
    (tmp_path / LINES).write_text('{"benchmark": "gsm8k"}\n')
    with pytest.raises(StoreError, match=r"generations.jsonl:1: not a generation"):
        read_generations(tmp_path)
