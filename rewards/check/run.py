"""Try a reward function before a GPU is spent on it (`zero rewards check`).

corpus.py        completions: right, wrong, and written to be paid without being right
   │
measure.py       which of them, by probe.py: one at a time, then in batches, in a process that is killed at a deadline
   │
exploits.py      whether it grades answers, and what a policy would learn from it
   │
report.py        what is wrong, by the names of findings.py

The check always ends, whatever the reward does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.check.corpus import Item, token_ids
from rewards.check.measure import measure
from rewards.check.probe import Probe
from rewards.check.report import DEFAULT_ARGS, CheckReport, report
from rewards.registry import RewardSettings
from rewards.types import RewardError

TIMEOUT = 20.0  # seconds for one call; above what our own verifier takes to give up an answer


def check_reward(
    settings: RewardSettings | str, rows: Sequence[Mapping[str, Any]] = (), base_dir: Path | None = None
) -> CheckReport:
    """Try a reward on the built-in corpus and on `rows`.

    Args:
        settings: as in a recipe, with the timeout of one call; or the name alone.
        rows: each with `completion`, `answer` and the columns that the function takes, the same in all; `label` (true
            or false, 1 or 0) says whether the completion should be paid.
        base_dir: where the reward's file is looked for. Default: the current folder.

    Raises RewardError if the reward cannot be loaded or needs a column that is not there, or rows are not as said.
    """
    if isinstance(settings, str):
        settings = RewardSettings(name=settings, timeout=TIMEOUT)
    settings = settings.model_copy(update={"args": {**DEFAULT_ARGS.get(settings.name, {}), **settings.args}})
    items = _items(rows)
    probe = Probe(settings, base_dir)
    try:
        with tempfile.TemporaryDirectory(prefix="zero-check-") as folder:
            measured = measure(probe, items, Path(folder) / "executed")
    finally:
        probe.close()
    return report(settings, measured)


def _items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Raises RewardError if a row has no completion, other columns than the first, or a label that is none."""
    items = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("completion"), str | list):
            raise RewardError(f"row {number}: completion: got {row.get('completion')!r}, expected a text or messages")
        if different := sorted((set(row) ^ set(rows[0])) - {"label"}):
            raise RewardError(f"row {number}: {', '.join(different)}: in this row or in row 1, expected in both")
        label = row.get("label")
        if label not in (None, 0, 1):
            raise RewardError(f"row {number}: label: got {label!r}, expected true or false, 1 or 0")
        columns = {name: value for name, value in row.items() if name not in ("completion", "label")}
        columns.setdefault("prompts", row.get("prompt", row.get("question", "")))
        columns.setdefault("completion_ids", token_ids(row["completion"]))
        style = "" if label is None else "should be paid" if label else "should not be paid"
        items.append(
            Item("your file", row["completion"], columns, "", "", style, None if label is None else bool(label))
        )
    return items
