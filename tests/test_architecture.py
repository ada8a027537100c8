"""The arrows between the packages: who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("rewards", "grpo", "eval", "recipes")
EVAL_MAY = (
    "rewards",
    "eval",
    "grpo.types",
    "grpo.prompts",
    "grpo.rollout",
    "grpo.page.bundle",
    "grpo.page.shell",
    "grpo.record.atomic",
    "grpo.record.duration",
    "grpo.record.flatten",
)
MAY = {"rewards": ("rewards",), "grpo": ("grpo", "rewards"), "eval": EVAL_MAY, "recipes": OURS}


def imports(path: Path) -> list[str]:
    """Every module of ours that the file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from grpo import types` names the module grpo.types
            found += [f"{node.module}.{a.name}" if node.module in OURS else node.module for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import; write the package's name")
    return [name for name in found if name.split(".")[0] in OURS]


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_its_arrows_allow(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY[package])
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["Problem", "Source", "Row", "Control"])
def test_a_name_that_had_several_meanings_has_one(name):
    defined = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if name in (getattr(node, "name", None), *(getattr(one, "id", None) for one in getattr(node, "targets", [])))
    ]
    assert len(defined) <= 1, defined


def test_nothing_hides_the_builtin_eval():
    files = [path for folder in (*OURS, "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")]
    names = [
        alias.asname or alias.name
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert not [name for name in names if name.split(".")[0] == "eval"]


@pytest.mark.parametrize("module", ["rewards", "eval.config", "grpo.config", "grpo.types", "grpo.prompts"])
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


# -- Circles ----------------------------------------------------------------------------------------------------------


def import_graph(root: Path, packages: Sequence[str]) -> dict[str, list[str]]:
    """Module -> what it imports of `packages`: in functions and for types, too. A package is its __init__."""
    files = {path.relative_to(root).with_suffix(""): path for one in packages for path in (root / one).rglob("*.py")}
    known = {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}

    def module(name: str) -> str:
        """`from grpo.types import Prompt` may name grpo.types.Prompt."""
        return name if name in known else name.rpartition(".")[0]

    return {name: sorted({module(imported) for imported in imports(path)} - {name}) for name, path in known.items()}


def circles(graph: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """The shortest circle through each module that is in none before: its modules, the first again at the end."""
    seen: set[str] = set()
    for start in sorted(graph):
        came_from = {start: start}  # breadth first: the shortest way back
        queue = [start] if start not in seen else []
        for name in queue:
            for other in graph.get(name, []):
                if other == start:
                    path = [name]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    seen |= set(path)
                    yield [*reversed(path), start]
                    queue.clear()
                    break
                if other not in came_from:
                    came_from[other] = name
                    queue.append(other)


def test_no_two_modules_import_each_other_in_a_circle():
    assert [" -> ".join(circle) for circle in circles(import_graph(ROOT, OURS))] == []


def test_a_circle_is_found_wherever_the_import_stands(tmp_path):
    files = {
        "grpo/__init__.py": "",
        "grpo/a.py": "from grpo.b import x",
        "grpo/b.py": "def f():\n    from grpo import c",
        "grpo/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import grpo.a\nimport grpo.d",
        "grpo/d.py": "",
        "eval/__init__.py": "from eval.e import x",
        "eval/e.py": "from eval import x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(circles(import_graph(tmp_path, ("grpo", "eval"))))
    assert found == [["eval", "eval.e", "eval"], ["grpo.a", "grpo.b", "grpo.c", "grpo.a"]]


# -- Sizes ------------------------------------------------------------------------------------------------------------


def python_files() -> list[Path]:
    return sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def test_no_module_is_longer_than_350_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_functions_are_seen_whole():
    # Without their parameters: those of a command are the table of its options.
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.body[0].lineno + 1
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: length for name, length in lengths.items() if length > 80} == {}
