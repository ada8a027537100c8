"""Score completions that are already there: any JSONL file, or a run's rollouts under another reward (`zero score`).

    FILE.jsonl   {"completion": "<answer>42</answer>", "answer": "42", ...}, one object a line
    RUN_DIR      every completion of its rollouts/step-*.parquet, a group at a time as in training

gives one line a completion, in order:

    {"value": 1.0, "outcome": "correct", "extracted": "42", "reason": "42 is 42"}

`outcome`, `extracted` and `reason` are null where no reward is a verdict; `value` is null where none applies or the
verdict failed. Of a run the line also says which completion it is, and its reward and advantage before and now.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grpo.record.atomic import readable, write_atomic
from grpo.record.stored import JSON_COLUMNS, ROLLOUTS, RecordError, read_rollouts
from grpo.signal.advantage import load_advantage
from grpo.signal.scoring import earned, reward_inputs
from grpo.types import Completion, Episode, Prompt, RewardsOfGroup
from recipes.jobs.rows import ScoreError, read_rows
from recipes.schema.load import load_recipe, yaml_value
from rewards import Reward, RewardError, RewardSettings, RewardSum, Score
from rewards.chat import CompletionForm
from rewards.types import TrainerState

EXAMPLES = 3  # changed advantages that are shown
CHARACTERS = 200  # of a problem and of a completion's end
ROUNDING = 1e-9  # advantages this small are 0: a reward at the mean of its group, but for rounding
_SIGNS = {1: "+", -1: "-", 0: "0", None: "none"}


@dataclass(frozen=True, slots=True)
class Rescored:
    """A completion of a run under the reward that it was trained with and under another.

    Example: Rescored(step=3, prompt_id="gsm8k/train/17", problem="A robe ...", completion="...</answer>",
                      before=1.0, before_advantage=0.7, reward=Reward(0.0, ...), advantage=-0.7)
    """

    step: int
    prompt_id: str
    problem: str
    completion: str
    before: float | None
    before_advantage: float | None
    reward: Reward
    advantage: float | None


def score(
    specs: Sequence[str],
    data: Path,
    output: Path | None = None,
    weights: Sequence[float] = (),
    args: Sequence[str] = (),
    columns: Sequence[str] = (),
    completions: CompletionForm | None = None,
) -> str:
    """Score `data` (a .jsonl file or a run's directory), write the lines to `output`; returns the summary.

    Args:
        weights: one for each of `specs`, in their order; none is 1 for each.
        args: KEY=VALUE for the only reward, or NAME.KEY=VALUE; the value is YAML.
        columns: ARGUMENT=COLUMN, which column an argument takes.
        completions: give texts or message lists, whatever the data has.

    Raises ScoreError on bad data, RewardError on a bad reward, RecipeError if the run's recipe cannot be read.
    """
    if output and output.resolve() == data.resolve():
        raise ScoreError(f"--output {output} is the data itself; name another file")
    rewards = RewardSum(reward_settings(specs, weights, args, columns, completions))
    if data.is_dir():
        rescored = list(rescore_run(rewards, data))
        scored, lines = [one.reward for one in rescored], [_line(one.reward) | _change(one) for one in rescored]
        summary = [*_summary(data, scored), *_changes(rescored)]
    else:
        scored = score_file(rewards, data)
        lines, summary = [_line(reward) for reward in scored], _summary(data, scored)
    if output:
        write_atomic(output, "".join(json.dumps(readable(line)) + "\n" for line in lines))
    return "\n".join([*summary, f"every completion: {output or 'give --output FILE.jsonl for one line each'}"])


def reward_settings(
    specs: Sequence[str],
    weights: Sequence[float],
    args: Sequence[str],
    columns: Sequence[str],
    completions: CompletionForm | None,
) -> list[RewardSettings]:
    """The rewards that the options of `zero score` describe. Raises ScoreError if they do not fit together."""
    if weights and (len(weights) != len(specs) or not all(map(math.isfinite, weights))):
        raise ScoreError(f"--weight: got {list(weights)}, expected a finite number for each of {', '.join(specs)}")
    named: dict[str, dict[str, Any]] = {spec.rpartition(":")[2]: {} for spec in specs}
    for arg in args:
        key, equals, text = arg.partition("=")
        name, dot, key = key.rpartition(".") if len(named) > 1 else (next(iter(named)), ".", key)
        if not (equals and dot and key) or name not in named:
            form = "KEY=VALUE" if len(named) == 1 else f"NAME.KEY=VALUE, with NAME one of {', '.join(named)}"
            raise ScoreError(f"--arg {arg}: expected {form}")
        try:
            named[name][key] = yaml_value(text)
        except yaml.YAMLError as error:
            raise ScoreError(f"--arg {arg}: {text!r} is not a YAML value; quote it") from error
    renamed = dict(_argument_and_column(column) for column in columns)
    return [
        RewardSettings(
            name=spec, weight=weight, args=named[spec.rpartition(":")[2]], columns=renamed, completions=completions
        )
        for spec, weight in zip(specs, weights or [1.0] * len(specs), strict=True)
    ]


def _argument_and_column(column: str) -> tuple[str, str]:
    argument, equals, name = column.partition("=")
    if not (argument and equals and name):
        raise ScoreError(f"--column {column}: expected ARGUMENT=COLUMN, such as solution=answer")
    return argument, name


# -- a file ----------------------------------------------------------------------------------------


def score_file(rewards: RewardSum, path: Path) -> list[Reward]:
    """One Reward for each line. Raises ScoreError that names file and line, RewardError that names the file."""
    rows = read_rows(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names if name != "completion"}
    if "prompt" in columns:
        columns.setdefault("prompts", columns["prompt"])
    if None in columns.get("answer", []):
        line = columns["answer"].index(None) + 1
        raise ScoreError(
            f"{path}:{line}: no `answer`, which other lines have; the line has {', '.join(rows[line - 1])}"
        )
    try:
        return rewards.score([row["completion"] for row in rows], columns)
    except RewardError as error:
        raise RewardError(f"{path}: {error}", error.problem) from error


# -- a run -----------------------------------------------------------------------------------------


def rescore_run(rewards: RewardSum, run_dir: Path) -> Iterator[Rescored]:
    """Every completion of a run's rollouts, in order, scored a group at a time; advantages as its recipe has them.

    Raises ScoreError, RewardError, RecipeError; AdvantageError of an advantage function of the recipe's own.
    """
    files = sorted((run_dir / "rollouts").glob(ROLLOUTS))
    if not files or not (run_dir / "recipe.yaml").is_file():
        raise ScoreError(
            f"{run_dir} is no run with a finished step: expected recipe.yaml and rollouts/step-NNNNNN.parquet in it"
        )
    recipe = load_recipe(str(run_dir / "recipe.yaml"))
    advantage = load_advantage(recipe.train.advantage_kind)
    weights = {one.name.rpartition(":")[2]: one.weight for one in recipe.rewards}
    for path in files:
        groups = [list(rows) for _, rows in itertools.groupby(_rollouts(path), key=lambda row: row["group"])]
        scored = [_scored_again(rewards, rows, recipe.train.steps) for rows in groups]
        before = advantage([_earned_then(rows, weights) for rows in groups])
        now = advantage([earned(group, rewards.weights) for group in scored])
        for step_group in zip(groups, scored, before, now, strict=True):
            yield from _rescored(*step_group)


def _rollouts(path: Path) -> list[dict[str, Any]]:
    """The rows of a rollouts file, what it keeps as JSON read."""
    try:
        rows = read_rollouts(path)
        if missing := {"group", "prefill", "columns"} - {name for row in rows for name in row}:
            raise ScoreError(
                f"{path}: no column {', '.join(sorted(missing))}: the run is of a version that did not keep all that "
                "rewards are given, so it cannot be scored again"
            )
        return [row | {name: json.loads(row[name]) for name in JSON_COLUMNS if row.get(name)} for row in rows]
    except (RecordError, json.JSONDecodeError) as error:
        raise ScoreError(f"{error}. Move {path} out of the run's directory to score the other steps") from error


def _scored_again(rewards: RewardSum, rows: list[dict[str, Any]], steps: int) -> list[Reward]:
    state = TrainerState(rows[0]["step"] - 1, steps, math.nan)  # the epoch is not known: rollouts do not say
    return rewards.score(*reward_inputs(_prompt(rows[0]), [_completion(row) for row in rows]), state)


def _earned_then(rows: list[dict[str, Any]], weights: Mapping[str, float]) -> RewardsOfGroup:
    return earned([Reward(row["reward"], row["rewards"]) for row in rows], weights)


def _rescored(
    rows: list[dict[str, Any]],
    scored: Sequence[Reward],
    before: Sequence[float | None],
    now: Sequence[float | None],
) -> Iterator[Rescored]:
    prompt = _prompt(rows[0])
    problem = prompt.messages[-1]["content"] if prompt.messages else prompt.text.removesuffix(prompt.prefill)
    for row, reward, before_advantage, advantage in zip(rows, scored, before, now, strict=True):
        at = (row["step"], prompt.id, problem, row["completion"])
        yield Rescored(*at, row["reward"], before_advantage, reward, advantage)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    messages = tuple(row["messages"] or ())
    return Prompt(row["prompt_id"], row["prompt"], (), row["answer"], row["prefill"], row["columns"], messages)


def _completion(row: Mapping[str, Any]) -> Completion:
    token_ids, versions = tuple(row["token_ids"]), tuple(row["versions"])
    logprobs = tuple(math.nan if logprob is None else logprob for logprob in row["logprobs"])
    trained = None if row.get("trained") is None else tuple(row["trained"])  # files of older runs have no such column
    episode = _episode(row["episode"]) if row.get("episode") else None
    return Completion(token_ids, logprobs, versions, row["completion"], row["finish_reason"], trained, episode)


def _episode(stored: Mapping[str, Any]) -> Episode:
    score = stored["score"]
    return Episode(tuple(stored["messages"]), stored["ended"], score and Score(**score))


# -- what is said ----------------------------------------------------------------------------------


def _line(reward: Reward) -> dict[str, Any]:
    verdict = reward.score
    line: dict[str, Any] = {
        "value": reward.value,
        "outcome": verdict.outcome if verdict else None,
        "extracted": verdict.extracted if verdict else None,
        "reason": verdict.reason if verdict else None,
    }
    return {**line, "parts": dict(reward.parts)} if len(reward.parts) > 1 else line


def _change(one: Rescored) -> dict[str, Any]:
    return {
        "step": one.step,
        "prompt_id": one.prompt_id,
        "value_before": one.before,
        "advantage_before": one.before_advantage,
        "advantage": one.advantage,
    }


def _summary(data: Path, scored: Sequence[Reward]) -> list[str]:
    """Means with their number of values, outcomes, and how many completions have no value."""
    columns = {"reward": [one.value for one in scored]}
    if len(scored[0].parts) > 1:
        columns |= {f"  {name}": [one.parts[name] for one in scored] for name in scored[0].parts}
    width = max(map(len, columns))
    outcomes = Counter(one.score.outcome for one in scored if one.score)
    unscored = sum(one.value is None for one in scored)
    return [
        f"{data}: {len(scored)} completions",
        *(f"{name:<{width}}  {_mean(values)}" for name, values in columns.items()),
        *([f"outcomes: {_counts(outcomes, len(scored))}"] if outcomes else []),
        *([f"without a value: {_counts({'failed, or no reward applies': unscored}, len(scored))}"] if unscored else []),
    ]


def _changes(rescored: Sequence[Rescored]) -> list[str]:
    """The mean before, and what became of the advantages' signs."""
    signs = Counter((_sign(one.before_advantage), _sign(one.advantage)) for one in rescored)
    flipped = [one for one in rescored if {_sign(one.before_advantage), _sign(one.advantage)} == {1, -1}]
    rows = [[signs[before, now] for now in _SIGNS] for before in _SIGNS]
    return [
        f"reward before  {_mean([one.before for one in rescored])}",
        f"advantages that change sign: {_counts({'+ to -': signs[1, -1], '- to +': signs[-1, 1]}, len(rescored))}",
        "before \\ now" + "".join(f"{name:>8}" for name in _SIGNS.values()),
        *(f"{name:>12}" + "".join(f"{n:>8}" for n in row) for name, row in zip(_SIGNS.values(), rows, strict=True)),
        *(line for one in flipped[:EXAMPLES] for line in _example(one)),
    ]


def _example(one: Rescored) -> list[str]:
    return [
        f"step {one.step}, {one.prompt_id}: reward {_number(one.before)} -> {_number(one.reward.value)}, "
        f"advantage {_number(one.before_advantage)} -> {_number(one.advantage)}",
        f"  problem    {_end(one.problem)}",
        f"  completion {_end(one.completion)}",
    ]


def _sign(advantage: float | None) -> int | None:
    return None if advantage is None else (advantage > ROUNDING) - (advantage < -ROUNDING)


def _mean(values: Iterable[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"mean {math.fsum(numbers) / len(numbers):.4f} of {len(numbers)}" if numbers else "no values"


def _counts(counts: Mapping[Any, int], n: int) -> str:
    return ", ".join(f"{name} {count} ({count / n:.1%})" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _end(text: str) -> str:
    return repr(text if len(text) <= CHARACTERS else f"...{text[-CHARACTERS:]}")
