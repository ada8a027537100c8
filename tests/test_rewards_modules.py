"""The modules of rewards/: none in a circle, none too long to read."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "rewards").rglob("*.py"))
LINES, LINES_OF_A_FUNCTION = 350, 45


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text()) for path in FILES}


def imported(tree: ast.Module) -> set[str]:
    """Modules of rewards that are imported anywhere in the file; `from package import module` names the module, too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: imported(tree) for name, tree in MODULES.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_and_its_functions_are_short_enough_to_be_seen(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES
    functions = [node for node in ast.walk(MODULES[name_of(path)]) if isinstance(node, ast.FunctionDef)]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lines.items() if n > LINES_OF_A_FUNCTION} == {}
