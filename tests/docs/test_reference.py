"""docs/reference/: every key has its sentence, no page is stale, and every metric and file of a run stands there."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo.record.recorder import ROLLOUT_SCHEMA
from recipes.jobs.sft import run as run_sft
from recipes.jobs.train import run
from recipes.schema.load import KINDS, load_run

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
PARTS = ("pack", "forward", "backward", "optimizer", "paused")  # of seconds_train and seconds_sync, in their rows
SPEC = importlib.util.spec_from_file_location("zero_tools_reference", ROOT / "tools" / "reference.py")
assert SPEC
assert SPEC.loader
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


def test_every_key_of_every_kind_has_a_sentence_and_no_sentence_is_of_a_key_that_is_gone():
    keys = {key for root in KINDS.values() for key, _ in reference.keys(root)}
    known = reference.sentences()
    assert sorted(keys - set(known)) == []
    assert sorted(set(known) - keys) == []
    assert [key for key, (meaning, _) in known.items() if not re.fullmatch(r".{10,}[.!]", meaning)] == []


def test_what_a_key_needs_is_named_as_it_is_called():
    keys = {key for root in KINDS.values() for key, _ in reference.keys(root)}
    named = {
        name
        for meaning, needs in reference.sentences().values()
        for name in re.findall(r"`([a-z_]+\.[a-z_.]+)", f"{meaning} {needs}")
    }
    assert named
    assert named - keys == set()


@pytest.mark.parametrize("name", ["recipe.md", "metrics.md"])
def test_a_page_is_as_the_schema_and_the_recorder_are(name):
    (made,) = (text for path, text in reference.pages().items() if path.name == name)
    assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == made, "python tools/reference.py"


def test_types_and_limits_are_in_words():
    page = reference.recipe_page()
    assert "| `rollout.temperature` | number, above 0 | `1.0` |" in page
    assert "| `train.clip_max` | number or null, above 1 | null |" in page
    assert "| `train.correction` | `none`, `truncate`," in page
    assert "| `model.path` | text | - |" in page


def test_every_column_of_the_rollouts_stands_on_the_page():
    table = FILES.partition("### Columns")[2].partition("##")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(ROLLOUT_SCHEMA.names)


# -- A run, and what it leaves ----------------------------------------------------------------------------------------

GRPO: dict[str, Any] = {
    "model": {"path": "tiny", "dtype": "float32"},
    "task": {
        "name": "arithmetic",
        "config": {"levels": [1, 2]},
        "template": "{question}=<think>",
    },
    "rewards": ["accuracy"],
    "rollout": {
        "engine": "transformers",
        "group_size": 4,
        "prompts_per_step": 2,
        "max_tokens": 24,
        "max_prompt_tokens": 32,
        "refill": 1,
    },
    "train": {
        "steps": 2,
        "learning_rate": 1e-4,
        "kl_coef": 0.01,
        "entropy_target": 0.5,
        "eval_every": 1,
        "curriculum": {"order": "levels"},
    },
    "eval": {"problems": 4},
}
SFT: dict[str, Any] = {
    "kind": "sft",
    "model": GRPO["model"],
    "data": [{"dataset": "examples.jsonl"}],
    "train": {"steps": 2, "batch_size": 2, "held_out": 0.3, "eval_every": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"prompt": f"{n}+{n}=<think>", "completion": f"{2 * n}</think>"} for n in range(10, 40)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, recipe, job in (("grpo", GRPO, run), ("sft", SFT, run_sft)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        assert job(load_run(str(folder / f"{name}.yaml")), name, folder / name, False) == 0  # type: ignore[operator]
    return [folder / "grpo", folder / "sft"]


def patterns(text: str) -> list[re.Pattern[str]]:
    """What the first cells of a table's rows name; a folder stands for all in it."""
    cells = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in text.splitlines() if row.startswith("| `")]
    found = [re.escape(name).replace("NNNNNN", r"\d{6}").replace("NAME", "[^/]+") for one in cells for name in one]
    return [re.compile(name + (".*" if name.endswith("/") else "")) for name in found]


@pytest.mark.slow
def test_every_file_of_a_run_stands_on_the_page(runs):
    known = patterns(FILES.partition("## Of a run")[2].partition("###")[0])
    for folder in runs:
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert files
        assert [name for name in files if not any(one.fullmatch(name) for one in known)] == []


@pytest.mark.slow
def test_every_metric_of_a_run_stands_on_the_page(runs):
    names = [name for key in reference.metrics() for name in key.split(", ")]
    known = [re.compile(re.escape(name).replace("NAME", ".+")) for name in names]
    known += [re.compile(f"seconds_train|seconds_{part}") for part in PARTS]
    for folder in runs:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics = {key for line in lines for key in line} - {"step"}
        assert len(metrics) > 5
        assert [key for key in sorted(metrics) if not any(one.fullmatch(key) for one in known)] == []
