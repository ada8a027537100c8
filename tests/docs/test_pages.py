"""docs/data.md, docs/python.md, docs/questions.md: what they say runs; settings, commands and links are there."""

from __future__ import annotations

import ast
import asyncio
import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from recipes.command.main import main
from recipes.schema.load import KINDS, load_recipe
from recipes.tasks import load_task
from tests.docs.test_reference import reference

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["data.md", "python.md", "questions.md"]
KEYS = {key for root in KINDS.values() for key, _ in reference.keys(root)}


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(name), re.S | re.M)


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_on_the_page_is_a_key_with_a_value_that_it_takes(name):
    """`a.b` and `a.b: value` in code; `a.b=value` after --set."""
    code = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text(name), flags=re.S | re.M))
    sections = "model|task|rewards|rollout|train|eval|cluster"
    settings = [one for one in code if re.fullmatch(rf"({sections})\.[a-z_.]+(: .*)?", one)]
    settings += [f"{key}: {value}" for key, value in re.findall(r"--set ([a-z_.]+)=(\S+?)`", text(name))]
    assert settings or name != "questions.md"
    for setting in settings:
        key, colon, value = setting.partition(": ")
        if key.endswith((".jsonl", ".py")):
            continue
        assert key in KEYS or key == "rewards.args.read", setting
        if colon and value != "DIR" and key not in ("task.read", "task.answer_pattern", "train.backend"):
            data = {
                "model": {"path": "tiny"},
                "task": {"dataset": "d.csv", "columns": {"question": "q", "answer": "a"}},
                "rewards": ["accuracy"],
            }
            place: Any = data
            *parents, last = key.split(".")
            for part in parents:
                place = place.setdefault(part, {})
            place[last] = yaml.safe_load(value)
            KINDS["grpo"].model_validate(data)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_on_the_page_has_its_options(name):
    commands = re.findall(r"`(zero [^`]+)`", text(name).replace("\n", " "))
    root: Any = typer.main.get_command(main)
    for line in commands:
        words = shlex.split(line)[1:]
        if len(words) == 1:
            assert words[0] in root.commands, line
            continue
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not root, line
        options = {name for parameter in command.params for name in parameter.opts}
        assert [word for word in words if word.startswith("--") and word not in options] == [], line


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    for link in re.findall(r"\]\(([^)]+)\)", text(name)):
        page, _, anchor = link.partition("#")
        place = (DOCS / name).parent / page
        assert place.exists(), link
        headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.M)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, link


def test_there_are_twenty_questions_each_with_a_setting_or_a_command():
    parts = re.split(r"^### \d+\. ", text("questions.md"), flags=re.M)[1:]
    assert len(parts) == 20
    assert [part.splitlines()[0] for part in parts if "`" not in part] == []


# -- data.md ----------------------------------------------------------------------------------------------------------


def rows_of_the_page() -> list[dict[str, str]]:
    return list(csv.DictReader(blocks("data.md", "csv")[0].splitlines()))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "folder"])
def test_the_task_of_the_page_works_from_every_kind_of_file(suffix, tmp_path):
    rows = rows_of_the_page()
    if suffix == "csv":
        (tmp_path / "problems.csv").write_text(blocks("data.md", "csv")[0])
    elif suffix == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(tmp_path / "problems.parquet")
    else:
        names = {"jsonl": {"problems.jsonl": rows}, "folder": {"train.jsonl": rows[:3], "test.jsonl": rows[3:]}}[suffix]
        for file, some in names.items():
            place = tmp_path / ("problems" if suffix == "folder" else "") / file
            place.parent.mkdir(exist_ok=True)
            place.write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = tmp_path / "my_recipe.yaml"
    dataset = "problems" if suffix == "folder" else f"problems.{suffix}"
    recipe.write_text(blocks("data.md", "yaml")[0].replace("problems.csv", dataset))
    task = load_task(load_recipe(str(recipe)).task, 10, seed=0)
    found = [*task.train, *task.held_out]
    assert sorted(row.answer for row in found) == ["3", "5", "5", "56"]
    assert {row.columns["topic"] for row in found} == {"sums", "products", "differences", "quotients"}
    assert task.rejected == []
    assert task.held_out


def test_the_patterns_of_the_page_read_what_stands_beside_them():
    from eval.problems.data import gold_answer

    table = re.findall(r"^\| `(.+?)` \| `answer_pattern: (.+?)` \|$", text("data.md"), re.M)
    read = [gold_answer(column, yaml.safe_load(pattern)) for column, pattern in table]
    assert read == ["18", r"\frac{1}{2}", "42", "5"]


# -- python.md --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_python_of_the_page_runs_as_in_a_notebook(tmp_path, monkeypatch):
    """One block after the other, in a loop that runs already; the run without a server, and shorter."""
    monkeypatch.chdir(tmp_path)
    small = '{"train.steps": 4, "rollout.engine": "transformers", "rollout.group_size": 4, "eval.problems": 10}'
    scope: dict[str, Any] = {}

    async def notebook() -> None:
        for block in blocks("python.md", "python"):
            code = compile(
                block.replace('{"train.steps": 4}', small), "python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            result = eval(code, scope)
            if asyncio.iscoroutine(result):
                await result

    asyncio.run(notebook())
    assert scope["run"].completions.num_rows == 4 * 16 * 4
    assert scope["found"].results["generations"]["accuracy"]["value"] == 0.1
    assert scope["summary"]["steps"] == 2
