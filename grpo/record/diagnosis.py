"""What is wrong with a run, in words: failures that stop it, and sentences about what usually goes wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from grpo.config import GRPOConfig, RolloutSettings
from grpo.record.pathologies import PATHOLOGIES, Pathology
from grpo.record.stored import read_lines
from grpo.rollout.engine import RolloutError
from grpo.rollout.scheduler import ScoredGroup
from grpo.types import Completion, Prompt
from rewards import Reward
from rewards.types import FAILURES

SHOWN_FAILURES = 3  # completions that the error about too many failures quotes
SHOWN_CHARACTERS = 120  # of each, and of its reason


class Diagnosis:
    """Watches the steps of one run, which goes on from those in its metrics.jsonl. `say` gets each sentence once."""

    def __init__(self, config: GRPOConfig, rollout: RolloutSettings, run_dir: Path, say: Callable[[str], None]) -> None:
        self._config, self._rollout, self._run_dir, self._say = config, rollout, run_dir, say
        self._history: list[dict[str, float]] = []
        self._known: set[Pathology] = set()
        for metrics in read_lines(run_dir / "metrics.jsonl"):  # of the run that this one resumes: it has said these
            self._add(metrics)
            self._new()

    def refuse_failures(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Raises RolloutError if more than train.max_failed_share of the step's completions failed."""
        unscored = [
            (scored.group.prompt, completion, reward)
            for scored in groups
            for completion, reward in zip(scored.group.completions, scored.rewards, strict=True)
            if reward.value is None
        ]
        causes = Counter(_failure_cause(reward) for _, _, reward in unscored)
        reasons: dict[str, str] = {}
        for scored in groups:
            causes.update(scored.group.failures)
            reasons |= scored.group.reasons
        asked = self._rollout.prompts_per_step * self._rollout.group_size
        failed = sum(causes.values())
        if failed > self._config.max_failed_share * asked:
            counts = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
            quoted = [*(_in_words(*example) for example in unscored), *(f"{c}: {why}" for c, why in reasons.items())]
            examples = "".join(f"\n  {one}" for one in quoted[:SHOWN_FAILURES])
            raise RolloutError(
                f"step {step}: {failed} of {asked} completions failed ({counts}), more than "
                f"train.max_failed_share = {self._config.max_failed_share}. See logs/ in {self._run_dir}"
                + (f". For example:{examples}" if examples else "")
            )

    def explain(self, metrics: Mapping[str, float]) -> None:
        """Add a step, and say what is wrong with the run since then: each pathology once."""
        self._add(metrics)
        for sentence in self._new():
            self._say(sentence)

    def _new(self) -> list[str]:
        """The sentences of pathologies that were not found before."""
        found = [
            (one, one(self._history, self._config, self._rollout)) for one in PATHOLOGIES if one not in self._known
        ]
        self._known.update(one for one, sentence in found if sentence)
        return [sentence for _, sentence in found if sentence]

    def _add(self, metrics: Mapping[str, float | None]) -> None:
        # What is not finite says nothing here; on disk it is null.
        self._history.append({key: x for key, x in metrics.items() if x is not None and math.isfinite(x)})


def _failure_cause(reward: Reward) -> str:
    """The outcome of the verdict that failed; without one, no reward had a value for the completion."""
    return reward.score.outcome if reward.score and reward.score.outcome in FAILURES else "no reward applies"


def _in_words(prompt: Prompt, completion: Completion, reward: Reward) -> str:
    """`arithmetic/train/17: timeout, not settled in 3 CPU seconds; the completion ends in '... 9!!</answer>'`"""
    cause = _failure_cause(reward)
    reason = f", {_ends(reward.score.reason)}" if reward.score and reward.score.outcome == cause else ""
    start = "..." if len(completion.text) > SHOWN_CHARACTERS else ""
    return f"{prompt.id}: {cause}{reason}; the completion ends in {start + completion.text[-SHOWN_CHARACTERS:]!r}"


def _ends(reason: str) -> str:
    """The start says whose reason it is, often with a long path; the end says what happened."""
    half = SHOWN_CHARACTERS // 2
    return reason if len(reason) <= 2 * half else f"{reason[:half]} ... {reason[-half:]}"
