"""What is wrong with a run, in words: failures that stop it, and sentences about what usually goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from grpo.config import GRPOConfig, RolloutSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.scheduler import ScoredGroup
from grpo.types import Completion, Prompt
from rewards import Reward
from rewards.types import FAILURES

SHOWN_FAILURES = 3  # completions that the error about too many failures quotes
SHOWN_CHARACTERS = 120  # of each, and of its reason
MISMATCH = 0.1  # mean |trainer - server| log-prob above which the run says so (bf16 noise is about 0.01 to 0.06)


class Diagnosis:
    """Watches the steps of one run. `say` gets each sentence once."""

    def __init__(self, config: GRPOConfig, rollout: RolloutSettings, run_dir: Path, say: Callable[[str], None]) -> None:
        self._config, self._rollout, self._run_dir, self._say = config, rollout, run_dir, say
        self._said: set[str] = set()

    def refuse_failures(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Raises RolloutError if more than train.max_failed_share of the step's completions failed."""
        unscored = [
            (scored.group.prompt, completion, reward)
            for scored in groups
            for completion, reward in zip(scored.group.completions, scored.rewards, strict=True)
            if reward.value is None
        ]
        causes = Counter(_failure_cause(reward) for _, _, reward in unscored)
        for scored in groups:
            causes.update(scored.group.failures)
        asked = self._rollout.prompts_per_step * self._rollout.group_size
        failed = sum(causes.values())
        if failed > self._config.max_failed_share * asked:
            counts = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
            examples = "".join(f"\n  {_in_words(*example)}" for example in unscored[:SHOWN_FAILURES])
            raise RolloutError(
                f"step {step}: {failed} of {asked} completions failed ({counts}), more than "
                f"train.max_failed_share = {self._config.max_failed_share}. See logs/ in {self._run_dir}"
                + (f". For example:{examples}" if examples else "")
            )

    def explain(self, metrics: Mapping[str, float]) -> None:
        """Say in words what usually goes wrong, once each."""
        if metrics["zero_variance_groups"] == 1:
            self._say_once(
                "no contrast",
                "every group of this step has one and the same reward for all its completions, so nothing could be "
                "learned from it (loss 0). If this goes on, the task is too hard or too easy: change "
                "task.config or raise rollout.group_size",
            )
        if metrics.get("logprob_diff", 0.0) > MISMATCH:
            self._say_once(
                "mismatch",
                f"the server's log-probs differ from the trainer's by {metrics['logprob_diff']:.2f} on average "
                f"(more than {MISMATCH}): usual causes are model.dtype, LoRA merged in bf16, or stale weights; "
                f"train.correction: {self._config.correction} is applied",
            )
        if metrics["truncated"] > 0.5:
            self._say_once(
                "truncated",
                f"{metrics['truncated']:.0%} of the completions were cut at rollout.max_tokens = "
                f"{self._rollout.max_tokens}: raise it if their answers are missing",
            )

    def _say_once(self, key: str, sentence: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(sentence)


def _failure_cause(reward: Reward) -> str:
    """The outcome of the verdict that failed; without one, no reward had a value for the completion."""
    return reward.score.outcome if reward.score and reward.score.outcome in FAILURES else "no reward applies"


def _in_words(prompt: Prompt, completion: Completion, reward: Reward) -> str:
    """`arithmetic/train/17: timeout, not settled in 3 CPU seconds; the completion ends in '... 9!!</answer>'`"""
    cause = _failure_cause(reward)
    reason = f", {reward.score.reason[:SHOWN_CHARACTERS]}" if reward.score and reward.score.outcome == cause else ""
    start = "..." if len(completion.text) > SHOWN_CHARACTERS else ""
    return f"{prompt.id}: {cause}{reason}; the completion ends in {start + completion.text[-SHOWN_CHARACTERS:]!r}"
