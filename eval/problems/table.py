"""The table of docs/benchmarks.md: `python -m eval.problems.table` prints it."""

from __future__ import annotations

from typing import Any

from eval.problems.benchmarks import BENCHMARKS
from eval.problems.protocol import Generated, Puzzles, Source


def table() -> str:
    """The table of docs/benchmarks.md."""
    rows = [
        "| name | problems | data | source | samples | temperature | top-p | max tokens | read | verifier | hash |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for one in BENCHMARKS.values():
        asked = one.protocol
        cells: list[Any] = [f"`{one.name}`", one.problems, _data(asked.data), one.source, asked.samples]
        cells += [asked.temperature, asked.top_p, asked.max_tokens, ", ".join(asked.read), asked.verifier]
        rows.append(f"| {' | '.join(map(str, cells))} | `{asked.hash()}` |")
    return "\n".join(rows) + "\n"


def _data(data: Source | Generated | Puzzles) -> str:
    if isinstance(data, Puzzles):
        return f"{len(data.config['datasets'])} generators, seed {data.seed}, {data.split}"
    if isinstance(data, Generated):
        return f"levels {data.levels[0]} to {data.levels[-1]}, seed {data.seed}, {data.split}"
    return f"{data.dataset}{f' ({data.subset})' if data.subset else ''}"


if __name__ == "__main__":
    print(table(), end="")
