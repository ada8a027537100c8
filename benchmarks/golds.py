"""The gold answers of the benchmark sets, read from plain files (GSM8K, MATH, AIME, AMC, Minerva, OlympiadBench).

The folder is ZERO_DATA_DIR, or shared/data beside the repository: one folder a set, one JSON object a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.problems.data import BOXED, gold_answer

DATA = Path(os.environ.get("ZERO_DATA_DIR", Path(__file__).resolve().parents[1] / "../shared/data"))


@dataclass(frozen=True, slots=True)
class Gold:
    r"""Example: Gold(dataset="math", row="math/test/17", text="\\frac{1}{2}")."""

    dataset: str
    row: str
    text: str


# Folder -> the column with the gold answer, and the pattern that finds it there (None: the whole column).
SETS: Mapping[str, tuple[str, str | None]] = {
    "gsm8k": ("answer", r"####\s*(.+)"),
    "math": ("solution", BOXED),
    "math500": ("answer", None),
    "aime24": ("answer", None),
    "aime25": ("answer", None),
    "amc23": ("answer", None),
    "minerva_math": ("solution", BOXED),
    "olympiadbench": ("final_answer", None),
}


def read_golds(dataset: str, data: Path = DATA) -> Iterator[Gold]:
    """Every row's gold answer, in the order of the files; "" where a row has none.

    Raises FileNotFoundError if the set's folder is not in `data`.
    """
    column, pattern = SETS[dataset]
    files = sorted((data / dataset).glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"no {data / dataset}/*.jsonl: set ZERO_DATA_DIR to the benchmark data's folder")
    for file in files:
        for i, line in enumerate(file.open(encoding="utf-8")):
            value = _joined(json.loads(line)[column])
            yield Gold(dataset, f"{dataset}/{file.stem}/{i}", gold_answer(value, pattern) or "")


def _joined(value: Any) -> Any:
    """OlympiadBench keeps its answers in a list."""
    return ", ".join(value) if isinstance(value, list) else value
