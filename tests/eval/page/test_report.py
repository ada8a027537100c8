"""The report's page, read as text: its data are the stored rows, its numbers those of results.json."""

import base64
import gzip
import hashlib
import html
import json
import re
from dataclasses import asdict

import pytest

from eval.page.charts import WIDTH, Bar, bars, token_ticks
from eval.page.report import write_report
from eval.store import StoreError, read_generations
from eval.types import Generation
from grpo.page.shell import ASSETS
from tests import report_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = report_samples.write_folder(tmp_path_factory.mktemp("evaluation"), report_samples.generations())
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_data_in_the_page_are_the_stored_rows(folder, page):
    assert unpacked(page) == [asdict(row) for row in read_generations(folder)]


def test_lines_that_are_not_yet_parquet_are_reported_too_and_lone_surrogates_are_named(tmp_path):
    rows = report_samples.generations()
    report_samples.write_folder(tmp_path, rows)
    (tmp_path / "generations.parquet").unlink()
    odd = {**asdict(rows[0]), "completion": "half of a pair: \ud83d"}
    (tmp_path / "generations.jsonl").write_text(json.dumps(odd) + "\n")
    assert unpacked(write_report(tmp_path).read_text(encoding="utf-8")) == [
        {**odd, "completion": r"half of a pair: \ud83d"}
    ]


def test_the_table_states_the_numbers_of_results_json(folder, page):
    results = json.loads((folder / "results.json").read_text())
    rows = re.findall(r"<tr><th scope=row>(.*?)(?=<tr>|</table>)", page, re.DOTALL)
    assert len(rows) == len(results) == 3
    for (name, entry), row in zip(results.items(), rows, strict=True):
        assert html.unescape(row).startswith(name)
        for key in ("accuracy", "truncated", "no_answer"):
            value, low, high = (f"{entry[key][part]:.1%}" for part in ("value", "low", "high"))
            assert f"{value} <span class=interval>[{low}, {high}]</span>" in row
        assert entry["protocol_hash"] in row
        assert f'<td data-name="failed">{sum(entry["failed"].values())}<' in row


def test_what_is_undefined_is_said(folder, page):
    # roots has problems with fewer than four graded samples: too many for pass@4
    entry = json.loads((folder / "results.json").read_text())["roots"]
    assert entry["pass_at_k"]["4"] is None
    assert '<td data-name="pass@k">@4 undefined' in page


def test_what_never_came_and_what_could_not_be_graded_are_said(folder, page):
    entry = json.loads((folder / "results.json").read_text())["roots"]
    missing, ungraded = entry["failed"]["timeout"], entry["outcomes"]["timeout"]
    assert f"roots: {missing} of 80 generations ({missing} timeout) never came; they are in no rate." in page
    came = 80 - missing
    assert f"roots: {ungraded} of {came} generations ({ungraded} timeout) could not be graded" in page


def test_the_policy_allows_the_pages_own_scripts_and_style_and_loads_nothing(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
    assert allowed == {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
    assert len(inline) == 5  # the style, and scripts: parts, KaTeX, text, browser
    page = page.replace((ASSETS / "vendor" / "katex.min.js").read_text(encoding="utf-8"), "")
    assert not re.search(r"<link|<img|<iframe|@import|url\(|<script src|<b>hostile", page)


def test_the_same_folder_gives_the_same_page(folder, page):
    assert write_report(folder).read_text(encoding="utf-8") == page


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no results\.json, which an evaluation writes when it ends"):
        write_report(tmp_path)


def test_a_folder_without_generations_is_refused(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(StoreError, match="holds no generations"):
        write_report(tmp_path)


def test_an_evaluation_of_which_nothing_could_be_graded_has_a_report(tmp_path):
    row = Generation("empty", "empty/0", 0, "", "1", "", None, None, None, "refused", failure="refused")
    report_samples.write_folder(tmp_path, [row])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<td data-name="accuracy"><b>-</b>' in page
    assert "empty: 1 of 1 generations (1 refused) never came" in page


def test_a_bar_lies_where_its_numbers_say():
    svg = bars("t", "n", [Bar("a", "text", value=0.5, low=0.25, high=0.75)], 1, [])
    assert f'<rect x="{WIDTH / 4:.1f}" y="22" width="{WIDTH / 2:.1f}"' in svg
    assert f'<circle cx="{WIDTH / 2:.1f}"' in svg


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 1]),
        (4, [0, 1, 2, 3, 4]),
        (10, [0, 5, 10]),
        (130, [0, 50, 100, 150]),
        (512, [0, 200, 400, 600]),
        (32_768, [0, 10_000, 20_000, 30_000, 40_000]),
    ],
)
def test_ticks_of_tokens_are_round_and_hold_the_largest(largest, ticks):
    assert token_ticks(largest) == (ticks[-1], [(tick, f"{tick:,}") for tick in ticks])


def unpacked(page):
    """The rows in the page, as its script reads them."""
    data = re.search(
        r'<script type="application/octet-stream" id="part-generations">([A-Za-z0-9+/=]*)</script>', page
    ).group(1)
    columns = json.loads(gzip.decompress(base64.b64decode(data)))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
