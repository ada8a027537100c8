"""docs/tutorial.md: its files are written, and its commands are run as they stand, in one process, by fewer steps.

Left out: `make demo` and the line after it, which set up what runs the test.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.command.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", re.M | re.S)
# What is written into the files, so that the commands take seconds.
FEWER = {
    "steps: 24": "steps: 1",
    "steps: 12": "steps: 1",
    "eval_every: 12, checkpoint_every: 12": "eval_every: 1",
    "group_size: 16, prompts_per_step: 16": "group_size: 2, prompts_per_step: 2",
    "problems: 80": "problems: 4",
    "problems: 200": "problems: 16",
    "epochs: 3, batch_size: 16": "steps: 1, batch_size: 4",
    "epochs: 2, batch_size: 16": "steps: 1, batch_size: 2",
}


def zero(arguments: list[str]) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (arguments, result.output)
    return result.output


def python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", arguments)
        runpy.run_path(arguments[0], run_name="__main__")


@pytest.mark.slow
def test_every_command_runs_as_it_is_written(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    # A stage of a chain is a process of its own, most of whose time are imports.
    monkeypatch.setattr("recipes.stages.run._zero", lambda arguments: CliRunner().invoke(main, arguments).exit_code)
    used, said = set(), ""
    for kind, text in BLOCK.findall(PAGE):
        if kind != "sh":
            name, content = re.fullmatch(r"# (\S+)\n(.*)", text, re.S).groups()  # type: ignore[union-attr]
            for whole, fewer in FEWER.items():
                used |= {whole} if whole in content else set()
                content = content.replace(whole, fewer)
            Path(name).write_text(content)
            continue
        for line in text.splitlines():
            command, *arguments = shlex.split(line)
            if command == "mkdir":
                Path(arguments[-1]).mkdir()
            elif command == "cd":
                monkeypatch.chdir(arguments[0])
            elif command == "zero":
                said += zero(arguments)
            elif command == "python":
                python(arguments, monkeypatch)
            else:
                assert line in ("make demo", "source .venv/bin/activate")
    assert used == set(FEWER)
    assert "gain over the control" in said
    assert "nothing will be refused" in said
    assert re.search(r"^student +sft +base +\d", said, re.M)
    assert capsys.readouterr().out.splitlines()[-1].startswith("37 + 85=<think>")
    assert {"chain", "control", "shop"} <= set(os.listdir("runs"))


def test_the_page_links_to_what_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target
