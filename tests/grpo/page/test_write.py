"""The parts of a run's page: what is filtered, what is shown, and where it lies."""

import base64
import gzip
import hashlib
import json
import os
import re
import struct

import numpy as np
import pytest

from grpo.page import index as page_index
from grpo.page import words, write
from grpo.page.bundle import as_json
from grpo.page.index import CUT, DROPPED, OUTCOMES, UNTRAINED, StepIndex, read_index
from grpo.page.shell import ASSETS
from grpo.page.texts import StepTexts
from grpo.page.vocabulary import read_vocabulary
from grpo.page.words import pack_words, word_blocks
from grpo.record.run import read_run
from grpo.record.stored import RecordError, read_rollouts
from tests import run_samples


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return run_samples.write_run(tmp_path_factory.mktemp("page") / "run", steps=4)


def rollouts(run_dir, step):
    return run_dir / "rollouts" / f"step-{step:06d}.parquet"


def test_the_index_has_every_completion_as_it_was_recorded(run_dir):
    for step in range(1, 5):
        index, rows = read_index(rollouts(run_dir, step)), read_rollouts(rollouts(run_dir, step))
        assert [OUTCOMES[code] for code in index.outcome_N] == [row["outcome"] for row in rows]
        assert index.tokens_N.tolist() == [len(row["token_ids"]) for row in rows]
        assert [None if np.isnan(x) else x for x in index.reward_N] == [row["reward"] for row in rows]
        flags = [
            CUT * (row["finish_reason"] == "length") | DROPPED * row["dropped"] | UNTRAINED * (row["advantage"] is None)
            for row in rows
        ]
        assert index.flags_N.tolist() == flags
        assert [p for p, n in zip(index.prompts, index.size_G, strict=True) for _ in range(n)] == [
            row["prompt_id"] for row in rows
        ]


@pytest.mark.parametrize("chunk_bytes", [500, 5_000, 1_000_000])
def test_the_chunks_of_a_step_hold_each_of_its_groups_once_and_whole(run_dir, monkeypatch, chunk_bytes):
    monkeypatch.setattr(page_index, "CHUNK_BYTES", chunk_bytes)
    index, rows = read_index(rollouts(run_dir, 3)), read_rollouts(rollouts(run_dir, 3))
    texts = StepTexts(rollouts(run_dir, 3), index)
    assert 1 <= index.chunks <= len(index.prompts)
    groups = [group for chunk in range(index.chunks) for group in texts.texts(chunk)]
    tokens = [group for chunk in range(index.chunks) for group in texts.tokens(chunk)]
    assert [row["completion"] for group in groups for row in group["rows"]] == [row["completion"] for row in rows]
    assert [row["versions"] for group in groups for row in group["rows"]] == [[2, 2]] * len(rows)
    assert [group["prompt_id"] for group in groups] == index.prompts
    assert [one["ids"] for group in tokens for one in group] == [row["token_ids"] for row in rows]


def test_a_small_run_is_one_file_and_a_large_one_has_its_texts_beside_it(tmp_path, monkeypatch):
    run_dir = run_samples.write_run(tmp_path / "run", steps=3)
    small = write.write_page(run_dir, read_run(run_dir)).read_text(encoding="utf-8")
    assert not (run_dir / "report").exists()
    monkeypatch.setattr(write, "INLINE_BYTES", 0)
    large = write.write_page(run_dir, read_run(run_dir)).read_text(encoding="utf-8")
    beside = {path.stem: parts_beside(path) for path in (run_dir / "report").iterdir()}
    inline = {name: part for name, part in parts_in(small).items() if name.startswith(("texts", "tokens"))}
    assert {name: part for name, part in beside.items() if name != "vocabulary"} == inline
    assert "texts-" not in "".join(parts_in(large))
    times = {path: path.stat().st_mtime_ns for path in (run_dir / "report").glob("t*.js")}
    rollouts(run_dir, 3).unlink()
    os.utime(rollouts(run_dir, 2), ns=(2**62, 2**62))  # written anew since
    write.write_page(run_dir, read_run(run_dir))
    kept = {path: path.stat().st_mtime_ns for path in (run_dir / "report").glob("t*.js")}
    same = {path.name: times[path] == time for path, time in kept.items()}
    assert same == {f"{kind}-{step:06d}-000.js": step == 1 for kind in ("texts", "tokens") for step in (1, 2)}


def test_tokens_are_kept_of_both_ends_of_a_run_that_has_too_many(run_dir, monkeypatch):
    indices = [read_index(rollouts(run_dir, step)) for step in range(1, 5)]
    sizes = [int(index.tokens_N.sum()) for index in indices]
    monkeypatch.setattr(write, "MAX_TOKENS", sizes[3] + sizes[0])
    assert write._with_tokens(indices) == {1, 4}


def test_only_the_pages_own_scripts_may_run(run_dir, tmp_path):
    page = write.write_page(run_dir, read_run(run_dir)).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    own = page.replace((ASSETS / "vendor" / "katex.min.js").read_text(encoding="utf-8"), "")
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|<link|<img", own)


def test_katex_is_the_file_of_its_package():
    """dist/katex.min.js of katex 0.16.47 (npm pack katex@0.16.47)."""
    digest = hashlib.sha256((ASSETS / "vendor" / "katex.min.js").read_bytes()).hexdigest()
    assert digest == "a29d2961d3146de5949d78ac7c1a9d93ae54955bad22a6db4fbe836e88e8bf48"


def test_a_damaged_step_is_said_and_the_others_are_shown(tmp_path):
    run_dir = run_samples.write_run(tmp_path / "run", steps=3)
    content = bytearray(rollouts(run_dir, 2).read_bytes())
    content[len(content) // 3] ^= 0xFF  # in a page: its metadata, at the end, are whole
    rollouts(run_dir, 2).write_bytes(content)
    page = write.write_page(run_dir, read_run(run_dir)).read_text(encoding="utf-8")
    assert "step-000002.parquet: not a Parquet file, or damaged" in page
    names = [name for name in parts_in(page) if name.startswith("texts")]
    assert names == ["texts-000001-000", "texts-000003-000"]
    assert arrays(parts_in(page)["index-0000"])["steps"] == [[1, 6, 1], [3, 6, 1]]


def test_texts_of_a_file_that_was_replaced_since_are_refused(run_dir):
    with pytest.raises(RecordError, match="it was written anew"):
        StepTexts(rollouts(run_dir, 2), read_index(rollouts(run_dir, 2)).__class__(**small_index(run_dir)))


def small_index(run_dir):
    index = read_index(rollouts(run_dir, 2))
    return {name: getattr(index, name) for name in index.__slots__} | {"size_G": index.size_G - 1}


def test_json_for_the_page_has_no_word_that_browsers_do_not_read():
    assert as_json({"a": [float("nan"), float("inf"), 1.5], "b": "\ud800"}) == b'{"a":[null,null,1.5],"b":"\\ud800"}'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"vocab": {"Ġa": 5, "Ã©": 6}}, "decoder": {"type": "ByteLevel"}}, {5: " a", 6: "\xc3\xa9"}),
        (
            {"model": {"vocab": [["▁a", -1.0], ["<0xE2>", -2.0]]}, "decoder": {"type": "Replace", "pattern": "▁"}},
            {0: " a", 1: "\xe2"},
        ),
        (
            {"model": {"vocab": {"é": 0}}, "added_tokens": [{"id": 9, "content": "<|end|>"}]},
            {0: "\xc3\xa9", 9: "<|end|>"},
        ),
        ([], {}),
        ({"model": {"vocab": 3}}, {}),
    ],
)
def test_a_token_is_the_bytes_that_it_stands_for(tmp_path, content, expected):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert read_vocabulary(tmp_path / "tokenizer.json") == expected


# -- Reading parts as the page does ------------------------------------------------------------------------------------


def parts_in(page):
    found = re.findall(r'id="part-([^"]+)">([A-Za-z0-9+/=]*)</script>', page)
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in found}


def parts_beside(path):
    name, text = re.fullmatch(r'zeroPart\("([^"]+)", "([A-Za-z0-9+/=]*)"\);\n', path.read_text()).groups()
    assert name == path.stem
    return gzip.decompress(base64.b64decode(text))


def arrays(part):
    (length,) = struct.unpack("<I", part[:4])
    return json.loads(part[4 : 4 + length])


def test_the_words_of_a_block_name_every_completion_that_holds_them(run_dir):
    steps = [(rollouts(run_dir, step), read_index(rollouts(run_dir, step))) for step in (2, 3)]
    packed = gzip.decompress(pack_words(steps))
    (length,) = struct.unpack("<I", packed[:4])
    header, start = json.loads(packed[4 : 4 + length]), -(-(4 + length) // 8) * 8
    arrays = {name: (count, start + offset) for name, _, count, offset in header["arrays"]}
    bytes_W = np.frombuffer(packed, "<i4", *arrays["bytes"])
    places = packed[arrays["places"][1] :][: arrays["places"][0]]
    found, at = {}, 0
    for word, size in zip(header["words"].split("\n"), bytes_W, strict=True):
        rows, row, step, shift = [], 0, 0, 0
        for byte in places[at : at + size]:
            step, shift = step | (byte & 127) << shift, shift + 7
            if byte < 128:
                row, step, shift = row + step, 0, 0
                rows.append(row)
        found[word], at = rows, at + size
    expected = {}
    for number, row in enumerate([row for path, _ in steps for row in read_rollouts(path)]):
        texts = [row[name] or "" for name in ("prompt_id", "prompt", "answer", "completion", "extracted", "reason")]
        for word in sorted({w for text in texts for w in re.findall(r"[a-z]+|[0-9]+|[^\x00-\x7f]+", text.lower())}):
            expected.setdefault(word, []).append(number)
    assert found == expected
    assert list(found) == sorted(found)
    assert any(len(rows) > 1 and rows[0] > 0 for rows in found.values())


def test_words_are_of_the_newest_steps_in_blocks_that_fit(monkeypatch):
    steps = [StepIndex(n, 2 if n == 4 else 1, [], *(np.zeros(5) for _ in range(7))) for n in range(1, 9)]
    assert word_blocks(steps) == []  # so few are read in a moment
    monkeypatch.setattr(words, "LEAST_CHUNKS", 0)
    monkeypatch.setattr(words, "MOST_CHUNKS", 7)
    monkeypatch.setattr(words, "BLOCK_CHUNKS", 3)
    assert [[one.step for one in block] for block in word_blocks(steps)] == [[3], [4, 5], [6, 7, 8]]
    monkeypatch.setattr(words, "BLOCK_COMPLETIONS", 9)
    assert [[one.step for one in block] for block in word_blocks(steps)] == [[3], [4], [5], [6], [7], [8]]
