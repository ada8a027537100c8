"""The program that makes puzzles: a request in JSON from stdin, rows in JSON to stdout. See puzzles.py.

Settings are checked here against the generator's own configuration class, its names, kinds and `validate`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.problems.generated import Row, Split, split_of
from rewards.nearest import did_you_mean
from rewards.puzzles.grading import COUNTDOWN, LOOKS
from rewards.user.process_tree import PR_SET_PDEATHSIG

MAX_MISSES = 1000  # draws in a row without a new puzzle, after which a generator counts as exhausted
CHUNK = 500  # puzzles that one seed makes
GOLDS = {
    "rubiks_cube": "example_correct_answer",
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
}
PLAIN: dict[type, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "a text"),
}


def make(request: Mapping[str, Any]) -> dict[str, Any]:
    """{"rows": {split: rows}, "short": [what there was less of]}, or {"error": lines}."""
    asked = request["entries"]
    if problems := [line for one in asked for line in refused(one["dataset"], one["settings"], one["levels"])]:
        return {"error": "\n".join(problems)}
    rows: dict[str, list[Row]] = {}
    short: list[str] = []
    for split, n in request["numbers"].items():
        rows[split] = mixed(asked, split, n, request["seed"], short)
        if not rows[split]:
            return {"error": "\n".join(short)}
    return {"rows": rows, "short": short}


def mixed(asked: Sequence[Mapping[str, Any]], split: Split, n: int, seed: int, short: list[str]) -> list[Row]:
    """Rows of every entry by its weight: the next is of the entry that is furthest behind its share."""
    streams = {one["dataset"]: in_turn(one, split, seed) for one in asked}
    weights = {one["dataset"]: one["weight"] for one in asked}
    taken, rows = dict.fromkeys(weights, 0), list[Row]()
    while streams and len(rows) < n:
        name = min(streams, key=lambda name: ((taken[name] + 1) / weights[name], name))
        row = next(streams[name], None)
        if isinstance(row, str) or row is None:
            del streams[name]
            why = f" ({row})" if row else ""
            short.append(
                f"{name} has no more than {taken[name]} different {split.replace('_', '-')} puzzles with these "
                f"settings: none new in {MAX_MISSES} draws{why}"
            )
            continue
        rows.append(row)
        taken[name] += 1
    return rows


def in_turn(one: Mapping[str, Any], split: Split, seed: int) -> Iterator[Row | str]:
    """Rows of one entry, its levels in turn, until one of them has no more; then why, if it failed."""
    seen: set[str] = set()
    levels: list[int | None] = [*one["levels"]] or [None]
    streams = [stream(one["dataset"], one["settings"], level, split, seed, seen) for level in levels]
    while True:
        for level in streams:
            row = next(level, None)
            if not isinstance(row, dict):
                yield row or ""
                return
            yield row


def stream(
    name: str, settings: Mapping[str, Any], level: int | None, split: Split, seed: int, seen: set[str]
) -> Iterator[Row | str]:
    """Different puzzles of one level; ends with a text where draws failed."""
    misses, failure = 0, ""
    for entry in drawn(name, settings, level, f"{name}/{level}/{split}/{seed}"):
        if misses == MAX_MISSES:
            break
        misses += 1
        if isinstance(entry, str):
            failure = entry
            continue
        key = hashlib.sha256(normal(entry["question"]).encode()).hexdigest()
        if key in seen or split_of(f"reasoning_gym/{key}") != split:
            continue
        seen.add(key)
        misses = 0
        yield row_of(name, entry, level, key)
    if failure:
        yield failure


def normal(question: str) -> str:
    """What two questions that are the same have in common: recipes/tasks.py compares them in this way, too."""
    return "".join(question.lower().split())


def drawn(name: str, settings: Mapping[str, Any], level: int | None, seed: str) -> Iterator[dict[str, Any] | str]:
    """Whatever the generator makes, without end; a text where it fails."""
    import numpy
    from reasoning_gym.factory import DATASETS

    rng, make_dataset = random.Random(seed), DATASETS[name][0]
    while True:
        base = rng.getrandbits(31)
        random.seed(base)  # some generators draw from the global states
        numpy.random.seed(base)
        dataset = make_dataset(configuration(name, settings, level, base))
        for i in range(CHUNK):
            try:
                yield dataset[i]
            except Exception as problem:  # a generator that cannot make this one may make the next
                yield f"{type(problem).__name__}: {problem}"


def row_of(name: str, entry: Mapping[str, Any], level: int | None, key: str) -> Row:
    metadata = entry["metadata"]
    answer = entry["answer"]
    if answer is None and name in GOLDS:
        answer = metadata[GOLDS[name]]
        answer = answer if isinstance(answer, str) else json.dumps(answer)
    if name not in LOOKS and name not in COUNTDOWN:
        metadata = {"source_dataset": name}  # all that grading needs
    return {
        "id": f"reasoning_gym/{name}/{key[:16]}",
        "question": entry["question"].strip(),
        "answer": "" if answer is None else str(answer).strip(),
        "subject": name,
        "level": level,
        "metadata": json.dumps(metadata, ensure_ascii=False, default=str),
    }


# -- Settings -----------------------------------------------------------------------------------------------------


def configuration(name: str, settings: Mapping[str, Any], level: int | None, seed: int) -> Any:
    """The generator's own configuration. Raises whatever its checks raise."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    given = {**settings, "seed": seed, "size": CHUNK}
    if level is None:
        config = DATASETS[name][1](**given)
    else:
        curriculum = CURRICULA[name]()
        curriculum.set_global_level(level)
        config = curriculum.generate_configuration(given)
    if hasattr(config, "validate"):
        config.validate()
    return config


def refused(name: str, settings: Mapping[str, Any], levels: Sequence[int]) -> Iterator[str]:
    """Why these settings make no puzzle, a line each."""
    from reasoning_gym.factory import DATASETS

    fields = {one.name: one for one in dataclasses.fields(DATASETS[name][1]) if one.name not in ("seed", "size")}
    wrong = list(_wrong_keys(name, settings, fields, levels))
    yield from wrong
    if wrong:
        return
    wanted: list[int | None] = [*levels] or [None]
    for level in wanted:
        try:
            DATASETS[name][0](configuration(name, settings, level, 0))
        except Exception as problem:  # any check of any generator
            at = "these settings are" if level is None else f"level {level} is"
            yield f"{name}: {at} refused by the generator: {str(problem) or type(problem).__name__}"


def _wrong_keys(
    name: str, settings: Mapping[str, Any], fields: Mapping[str, Any], levels: Sequence[int]
) -> Iterator[str]:
    moved = _moved_by_levels(name) if levels else set()
    for key, value in settings.items():
        if key not in fields:
            allowed = ", ".join(["weight", "levels", "untrusted", *fields])
            yield f"{name}: unknown key {key!r}{did_you_mean(key, fields)}; allowed here: {allowed}"
        elif key in moved:
            yield f"{name}: {key} is what levels set; leave one of the two out"
        elif (kind := PLAIN.get(type(fields[key].default))) and not _is(value, kind[0]):
            yield f"{name}: {key}: got {value!r}, expected {kind[1]}, such as {fields[key].default!r}"


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _moved_by_levels(name: str) -> set[str]:
    from reasoning_gym.factory import CURRICULA

    keys = ("field_name", "lower_field_name", "upper_field_name")
    return {getattr(one, key) for one in CURRICULA[name]().attributes.values() for key in keys if hasattr(one, key)}


def main() -> None:
    caller = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != caller:
        os._exit(1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # generators print
    json.dump(make(json.load(sys.stdin)), answers)
    answers.close()


if __name__ == "__main__":
    main()
