"""Runs that were never trained, recorded by the real recorder: for the page of a run, its tests and its benchmark."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from grpo.record.recorder import RunRecorder
from tests.report_samples import HOSTILE

RECIPE = {
    "model": {"path": "tiny", "lora": None},
    "task": {"name": "sums", "seed": None},
    "rewards": [{"name": "accuracy"}, {"name": "format"}],
    "train": {"steps": 12, "control": "none", "seed": 0, "learning_rate": 1e-6},
    "eval": {"samples": 1},
}
VOCABULARY = {chr(i): i for i in range(32, 127)}

TEXTS = HOSTILE | {"a megabyte": "<b>\u202e" * 262_144}


def row(step: int, group: int, completion: str, outcome: str | None, **changes: Any) -> dict[str, Any]:
    """One completion as a trainer records it; `changes` are of ROLLOUT_SCHEMA's columns."""
    ids = [VOCABULARY.get(character, 0) for character in completion[:400]]
    paid = 1.0 if outcome == "correct" else None if outcome == "timeout" else 0.0
    return {
        "step": step,
        "group": group,
        "prompt_id": f"sums/train/{group}",
        "prompt": "What is $17 + 25$?",
        "prefill": "",
        "messages": None,
        "completion": completion,
        "answer": "42",
        "columns": {"level": 1},
        "reward": paid,
        "rewards": {"accuracy": paid, "format": 0.2},
        "extra": {},
        "outcome": outcome,
        "extracted": "42" if outcome == "correct" else "41",
        "reason": "42 is 42" if outcome == "correct" else "41 is not 42",
        "advantage": None if paid is None else paid - 0.5,
        "dropped": False,
        "finish_reason": "stop",
        "token_ids": ids,
        "logprobs": [-0.01 * (i % 300) for i in range(len(ids))],
        "versions": [step - 1] * len(ids),
    } | changes


def completion(rng: random.Random, length: int, right: bool) -> str:
    words = [
        rng.choice(["so", "then", "we carry", "the sum", "is", "$17 + 25$", "adding", "$4 \\cdot 10$"])
        for _ in range(length)
    ]
    value = 42 if right else 40 + rng.randrange(2)
    return f"<think>{' '.join(words)}, which gives \\[ 17 + 25 = {value} \\]</think>\n<answer>{value}</answer>"


def step_rows(
    rng: random.Random, step: int, groups: int, size: int, prompts: int, skill: float
) -> list[dict[str, Any]]:
    """A step of `groups` groups of `size`; problems come again after `prompts` of them."""
    found = []
    for group in range(groups):
        number = ((step - 1) * groups + group) % prompts
        a, b = 10 + number % 80, 20 + number // 80
        for _ in range(size):
            outcome = rng.choices(
                ["correct", "wrong", "no_answer", "malformed", "timeout"], [skill, 0.9 - skill * 0.9, 0.05, 0.03, 0.02]
            )[0]
            length = rng.randrange(5, 40)
            found.append(
                row(
                    step,
                    group,
                    completion(rng, length, outcome == "correct"),
                    outcome,
                    prompt_id=f"sums/train/{number}",
                    prompt=f"What is ${a} + {b}$?",
                    finish_reason="length" if outcome == "no_answer" else "stop",
                )
            )
    return found


def metrics(rows: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    outcomes = [one["outcome"] for one in rows]
    shares = {f"outcome/{name}": outcomes.count(name) / len(rows) for name in sorted({o for o in outcomes if o})}
    paid = [one["reward"] for one in rows if one["reward"] is not None]
    return {
        "reward": sum(paid) / max(len(paid), 1),
        "reward_std": 0.4,
        "accuracy": outcomes.count("correct") / len(rows),
        "length": sum(len(one["token_ids"]) for one in rows) / len(rows),
        "entropy": 0.8 / step**0.3,
        "truncated": sum(one["finish_reason"] == "length" for one in rows) / len(rows),
        "zero_variance_groups": 0.2,
        "failed": outcomes.count("timeout") / len(rows),
        "loss": 0.01,
        "grad_norm": 0.3 + 0.02 * (step % 5),
        "logprob_diff": 0.004,
        "seconds_wait": 2.0 + 0.1 * (step % 4),
        "seconds_reward": 0.2,
        "seconds_train": 3.0,
        "seconds_sync": 0.6,
        "seconds_rest": 0.1,
        "tokens_per_second": 900.0,
        "staleness": 0.0,
        "server_restarts": 0.0,
        "reward/accuracy": outcomes.count("correct") / len(rows),
        "reward/format": 0.2,
        **shares,
    }


def start_run(folder: Path, recipe: dict[str, Any] = RECIPE) -> RunRecorder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    tokenizer = {"model": {"type": "WordLevel", "vocab": VOCABULARY}, "added_tokens": []}
    (folder / "checkpoints" / "step-000001").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "step-000001" / "tokenizer.json").write_text(json.dumps(tokenizer))
    return RunRecorder(folder, recipe, recipe["train"]["steps"], console=Console(file=io.StringIO(), width=80))


def evaluate(run: RunRecorder, step: int, skill: float, problems: int = 200, seed: int = 0) -> None:
    rng = random.Random(seed * 1000 + step)
    right = {f"sums/test/{i}": float(rng.random() < skill) for i in range(problems)}
    share = sum(right.values()) / problems
    run.evaluation(
        step, {"accuracy": share, "low": share - 0.06, "high": share + 0.06, "n": problems, "problems": right}
    )


def add_step(run: RunRecorder, step: int, rows: Sequence[dict[str, Any]]) -> None:
    run.rollouts(step, rows)
    run.step(step, metrics(rows, step))


def hostile_rows(step: int) -> list[dict[str, Any]]:
    """A group for each hostile text, which is everything that a model or a data set may write."""
    return [
        row(
            step,
            number,
            text,
            "wrong",
            prompt_id=f"<i>{name}</i>",
            prompt=text,
            reason=text,
            extracted=text,
            answer=text,
        )
        for number, (name, text) in enumerate(TEXTS.items())
    ]


def write_run(folder: Path, steps: int = 12, groups: int = 6, size: int = 8, hostile: bool = False) -> Path:
    """A finished run; with `hostile`, its last step is of hostile texts. Its report is not written."""
    rng = random.Random(0)
    run = start_run(folder)
    run.note("64 completions a step")
    evaluate(run, 0, 0.3)
    for step in range(1, steps + 1):
        skill = 0.2 + 0.6 * step / steps
        rows = step_rows(rng, step, groups, size, prompts=3 * groups, skill=skill)
        if step == 2:
            rows[:size] = [one | {"dropped": True, "advantage": None} for one in rows[:size]]
        add_step(run, step, hostile_rows(step) if hostile and step == steps else rows)
        if step == steps // 2:
            run.note("train.learning_rate is high: the norm of the gradient rose tenfold at once")
            evaluate(run, step, 0.5)
    evaluate(run, steps, 0.8)
    run.close()
    last = {"accuracy": 0.8, "low": 0.74, "high": 0.86, "n": 200}
    summary = {"before": last, "after": last, "steps": steps, "wall_seconds": 185.0, "engine": "vllm"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
