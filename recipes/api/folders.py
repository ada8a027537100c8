"""What a run, a chain or an evaluation left on disk, as objects; also of one that is still going on.

    run = Run("runs/mine")
    run.metrics, run.evaluations, run.completions           datasets.Dataset: a row a step, a measurement, a completion
    run.recipe, run.summary, run.checkpoints                as they were resolved, as they ended, step -> folder
    run.completions.to_pandas().groupby("outcome").size()

Everything is read when it is asked for. What cannot be read is left out, with a warning that names it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.record.stored import ROLLOUTS, read_lines
from recipes.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from recipes.schema.load import AnyRecipe


class Run:
    """A run's directory, or a chain's. Raises InputError if it is neither."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not any((self.folder / name).is_file() for name in ("recipe.yaml", "chain.yaml")):
            raise InputError(f"{folder}: it has no recipe.yaml and no chain.yaml; expected the directory of a run")

    @property
    def recipe(self) -> AnyRecipe:
        """Every setting, defaults included. A chain has none of its own: see `stages`."""
        from recipes.schema.load import load_run

        self._refuse_chain("recipe")
        return load_run(str(self.folder / "recipe.yaml"))

    @property
    def stages(self) -> dict[str, Run]:
        """Of a chain: the runs of its stages that have begun, in their order. Of a run: {}."""
        import yaml

        file = self.folder / "chain.yaml"
        named = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"] if file.is_file() else {}
        places = {name: self.folder / "stages" / name for name in named}
        return {name: Run(place) for name, place in places.items() if (place / "recipe.yaml").is_file()}

    @property
    def metrics(self) -> Dataset:
        """One row a step; docs/reference/metrics.md says what each column is."""
        return self._lines("metrics.jsonl")

    @property
    def evaluations(self) -> Dataset:
        """One row a measurement of held-out accuracy: step, accuracy, low, high, n."""
        return self._lines("evaluations.jsonl")

    @property
    def completions(self) -> Dataset:
        """One row a completion, of every step: `read_completions()`."""
        return self.read_completions()

    def read_completions(self, steps: Iterable[int] | None = None, columns: Sequence[str] | None = None) -> Dataset:
        """The completions of some steps, or all, with some columns, or all: a long run has more than fits in memory.

        `rewards`, `messages`, `columns` and `extra` are JSON. Raises InputError for a column that there is none of.
        """
        from grpo.record.recorder import ROLLOUT_SCHEMA

        self._refuse_chain("completions")
        names = list(columns) if columns is not None else ROLLOUT_SCHEMA.names
        if unknown := [name for name in names if name not in ROLLOUT_SCHEMA.names]:
            raise InputError(f"columns: no {', '.join(unknown)}; there are {', '.join(ROLLOUT_SCHEMA.names)}")
        wanted = None if steps is None else {f"step-{step:06d}.parquet" for step in steps}
        files = sorted((self.folder / "rollouts").glob(ROLLOUTS))
        return _parquet([file for file in files if wanted is None or file.name in wanted], ROLLOUT_SCHEMA, names)

    @property
    def held_out(self) -> dict[int, dict[str, float]]:
        """Step -> held-out problem's id -> share of its answers that were right."""
        found = {int(file.stem[5:]): _json(file) for file in sorted((self.folder / "held_out").glob("step-*.json"))}
        return {step: problems for step, problems in found.items() if problems is not None}

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder that transformers, peft and vLLM load, oldest first."""
        from grpo.policy.checkpoint import checkpoints

        return dict(checkpoints(self.folder))

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """What the run came to; None while it has not ended."""
        return _json(self.folder / "summary.json")

    @property
    def report(self) -> Path | None:
        """The page to open in a browser; None while it has not ended."""
        return page if (page := self.folder / "report.html").is_file() else None

    def _lines(self, name: str) -> Dataset:
        self._refuse_chain(name.partition(".")[0])
        return _dataset(read_lines(self.folder / name, say=_warn))

    def _refuse_chain(self, what: str) -> None:
        if (self.folder / "chain.yaml").is_file():
            names = ", ".join(self.stages) or "none yet"
            raise InputError(f"{self.folder} is a chain; its {what} are in stages, such as .stages[NAME]: {names}")

    def __repr__(self) -> str:
        if (self.folder / "chain.yaml").is_file():
            return f"Run({str(self.folder)!r}: a chain, stages {', '.join(self.stages) or 'not begun'})"
        steps = [row["step"] for row in read_lines(self.folder / "metrics.jsonl")]
        measured = [row for row in read_lines(self.folder / "evaluations.jsonl") if row.get("accuracy") is not None]
        accuracy = f", held-out accuracy {measured[0]['accuracy']:.1%} -> {measured[-1]['accuracy']:.1%}"
        going = "" if self.summary else ", not ended"
        return f"Run({str(self.folder)!r}: {max(steps, default=0)} steps{accuracy if measured else ''}{going})"


class Evaluation:
    """The folder of an evaluation, or of one of every checkpoint. Raises InputError if it is neither."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not any((self.folder / name).is_file() for name in ("evaluation.json", "results.json", "checkpoints.json")):
            raise InputError(f"{folder}: it has no results.json; expected the folder of an evaluation")

    @property
    def results(self) -> Mapping[str, Any]:
        """Benchmark -> accuracy with its interval, the other statistics, the protocol; {} while it has not ended."""
        return _json(self.folder / "results.json") or {}

    @property
    def checkpoints(self) -> dict[int, Evaluation]:
        """Of every checkpoint of a run: step -> its evaluation; else {}."""
        places = sorted(self.folder.glob("step-*"))
        return {int(place.name[5:]): Evaluation(place) for place in places if (place / "results.json").is_file()}

    @property
    def generations(self) -> Dataset:
        """One row a completion, with its grade, extracted answer and reason."""
        import dataclasses

        from datasets import Dataset

        from eval.store import SCHEMA, StoreError, read_generations

        try:
            rows = [dataclasses.asdict(one) for one in read_generations(self.folder)]
        except StoreError as error:
            raise InputError(str(error)) from error
        import pyarrow as pa

        return Dataset(pa.Table.from_pylist(rows, schema=SCHEMA))

    @property
    def report(self) -> Path | None:
        """The page to open in a browser; None while it has not ended."""
        return page if (page := self.folder / "report.html").is_file() else None

    def __repr__(self) -> str:
        found = [
            f"{name} {entry['accuracy']['value']:.1%} [{entry['accuracy']['low']:.1%}, {entry['accuracy']['high']:.1%}]"
            for name, entry in self.results.items()
            if entry.get("accuracy")
        ]
        return f"Evaluation({str(self.folder)!r}: {', '.join(found) or 'no accuracy'})"


def _dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """With every key that any row has; null where a row has it not. Numbers are floats where any of them is."""
    from datasets import Dataset

    names = list(dict.fromkeys(name for row in rows for name in row))
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _parquet(files: Sequence[Path], schema: Any, columns: list[str]) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset
    from pyarrow import parquet

    wanted = pa.schema([schema.field(name) for name in columns])
    tables = [wanted.empty_table()]
    for file in files:
        try:
            table = parquet.read_table(file, columns=columns, page_checksum_verification=True)
            tables.append(table.select(columns).cast(wanted))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            _warn(f"{file} cannot be read, and is left out: {error}")
    return Dataset(pa.concat_tables(tables))


def _json(file: Path) -> Any:
    """None where it is not there, or cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError as error:
        _warn(f"{file} cannot be read, and is left out: {error}")
        return None


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)
