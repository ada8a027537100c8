"""Any runs beside each other: paired where they answered the same problems, and said where not."""

import json

import pytest
from typer.testing import CliRunner

from eval.stats.compare import CompareError
from eval.stats.intervals import paired_difference
from recipes.command.main import main
from recipes.jobs.compare_runs import pairs_of, read_members, recipe_differences
from tests import browser, run_samples
from tests.grpo.page.test_page_browser import Page


def make(folder, skill, asked=0, evaluated=True, **train):
    recipe = run_samples.RECIPE | {"train": run_samples.RECIPE["train"] | train}
    run = run_samples.start_run(folder, recipe)
    if evaluated:
        run_samples.evaluate(run, 0, 0.3)
        run_samples.evaluate(run, 2, skill, seed=asked)
    for step in (1, 2):
        run_samples.add_step(run, step, run_samples.step_rows(run_samples.random.Random(step), step, 2, 4, 4, skill))
    run.close()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make(folder / "grpo", 0.4),
        make(folder / "dapo", 0.8, learning_rate=2e-6),
        make(folder / "reseeded", 0.6, asked=5, seed=7),
        make(folder / "<b>begun", 0.5, evaluated=False),
    ]


def last(folder):
    return json.loads((folder / "held_out" / "step-000002.json").read_text())


def test_differences_are_paired_where_the_problems_are_the_same_and_only_there(runs):
    pairs = pairs_of(read_members(runs))
    assert [(pair.a, pair.b, pair.paired) for pair in pairs] == [
        ("grpo", "dapo", 200),
        ("grpo", "reseeded", 0),
        ("dapo", "reseeded", 0),
    ]
    a, b = ([last(folder)[key] for key in sorted(last(folder))] for folder in runs[:2])
    assert pairs[0].difference.value == pytest.approx((sum(b) - sum(a)) / 200)
    assert (pairs[0].difference.low, pairs[0].difference.high) == paired_difference(a, b, 1)
    assert pairs[0].p_value < 0.001
    assert pairs[1].p_value is None


def test_what_differs_in_the_recipes_is_listed_by_key(runs):
    assert recipe_differences(read_members(runs)) == {
        "train.seed": [0, 0, 7, 0],
        "train.learning_rate": [1e-6, 2e-6, 1e-6, 1e-6],
    }


def test_the_command_compares_any_runs_and_writes_their_page(runs, tmp_path):
    result = CliRunner().invoke(main, ["compare", *map(str, runs), "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "dapo - grpo: +" in result.output
    assert "(paired on 200 problems, p = " in result.output
    assert "not the same problems" in result.output
    assert "runs of one task.seed hold out the same problems" in result.output
    assert "train.learning_rate: 1e-06 | 2e-06 | 1e-06 | 1e-06" in result.output
    assert "<b>begun has no evaluation on held-out problems" in result.output
    assert (tmp_path / "page.html").is_file()
    two = CliRunner().invoke(main, ["compare", *map(str, runs[:2])])  # no control of each other
    assert two.exit_code == 0
    assert "task.seed" not in two.output
    assert f"page: {runs[0].parent.resolve() / 'compare.html'}" in two.output


def test_a_chain_is_compared_by_its_stages(tmp_path):
    for name in ("rl", "rl_again"):
        make(tmp_path / "chain" / "stages" / name, 0.5)
    (tmp_path / "chain" / "chain.yaml").write_text("stages: {rl: {kind: grpo}, rl_again: {kind: grpo}}\n")
    result = CliRunner().invoke(main, ["compare", str(tmp_path / "chain"), "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "rl_again - rl: +0.0 points" in result.output


def test_what_cannot_be_compared_is_refused_with_the_reason(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.yaml").write_text("{}")
    alone = CliRunner().invoke(main, ["compare", str(runs[0])])
    assert (alone.exit_code, "expected two folders or more" in alone.output) == (2, True)
    missing = CliRunner().invoke(main, ["compare", str(runs[0]), str(tmp_path / "none")])
    assert (missing.exit_code, f"{tmp_path}/none does not exist" in missing.output) == (2, True)
    with pytest.raises(CompareError, match="a folder is given twice"):
        read_members([runs[0], runs[0]])
    with pytest.raises(CompareError, match=r"no metrics\.jsonl; a comparison needs at least one step of each run"):
        read_members([runs[0], tmp_path / "empty"])


def test_damaged_problems_leave_an_unpaired_comparison(tmp_path):
    folders = [make(tmp_path / name, 0.5) for name in ("a", "b")]
    (folders[1] / "held_out" / "step-000002.json").write_text('{"sums/test/1": "yes"}')
    (pair,) = pairs_of(read_members(folders))
    assert pair.paired == 0


class ComparePage(Page):
    def ready(self):
        return self.run("return document.querySelectorAll('#runs tr').length > 0")


@browser.MARKS[0]
@browser.MARKS[1]
def test_the_page_draws_each_run_in_one_colour_and_fits_a_phone(driver, runs, tmp_path):
    CliRunner().invoke(main, ["compare", *map(str, runs), "--output", str(tmp_path / "page.html")])
    driver.get_log("browser")
    for width, scheme in ((1280, "light"), (400, "dark")):
        page = ComparePage(driver, tmp_path / "page.html").open(width=width, scheme=scheme)
        assert page.run("return document.documentElement.scrollWidth") <= width
    legends = page.run(
        "return [...document.querySelectorAll('figure')].map((figure) => [...figure.querySelectorAll('.legend span')]"
        ".map((node) => [node.textContent, node.className]))"
    )
    kinds = {}
    for name, kind in (entry for legend in legends for entry in legend):
        assert kinds.setdefault(name, kind) == kind
    assert len(set(kinds.values())) == len(kinds) == 4
    assert "<b>begun" in page.text("#runs")
    assert page.run("return document.querySelectorAll('#pairs .difference').length") == 3
    assert driver.get_log("browser") == []
