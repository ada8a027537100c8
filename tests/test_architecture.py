"""The arrows between the packages: who may import whom."""

import ast
import subprocess
import sys
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
    "grpo.atomic",
    "grpo.duration",
    "grpo.flatten",
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


@pytest.mark.parametrize("module", ["rewards", "eval.config", "grpo.config", "grpo.types", "grpo.prompts"])
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
