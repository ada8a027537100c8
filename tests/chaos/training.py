"""The training runs that faults happen to: the built-in model, a few steps of 4 prompts, each a second in process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.enclosure import Attempt
from tests.chaos.ledger import Ledger, Terms, differences, read

REWARDS = Path(__file__).with_name("strange_rewards.py")
STEPS = 4


def rewards(function: str, **settings: float) -> str:
    """`accuracy`, and beside it a function of strange_rewards.py."""
    more = "".join(f", {key}: {value}" for key, value in settings.items())
    return f"rewards=[{{name: accuracy}}, {{name: '{REWARDS}:{function}', weight: 0.1{more}}}]"


@dataclass(frozen=True)
class Training:
    """A recipe and what it promises.

    `seconds`: that one attempt at it may take on a busy machine. `like`: one whose undisturbed run trains the same
    prompts and, if `terms.exact`, computes the same to the bit. None: its own.
    """

    name: str
    terms: Terms
    overrides: tuple[str, ...] = ()
    seconds: float = 300.0
    like: Training | None = None

    @contextmanager
    def opened(self) -> Iterator[Training]:
        yield self

    def line(self, folder: Path) -> list[str]:
        shape = [f"train.steps={self.terms.steps}", f"rollout.prompts_per_step={self.terms.prompts}"]
        shape += [f"rollout.group_size={self.terms.group_size}", f"rollout.max_staleness={self.terms.max_staleness}"]
        overrides = [part for one in [*COMMON, *shape, *self.overrides] for part in ("--set", one)]
        return ["zero", "run", "tiny_arithmetic_cpu", *overrides, "--output", str(folder)]

    def begun(self, folder: Path) -> bool:
        return (folder / "recipe.yaml").is_file()

    def pasted(self, attempt: Attempt) -> list[str]:
        """The command that a stopped run says to go on with, as a shell reads it; empty if there is none."""
        line = re.search(r"zero run .*--resume[^\n]*", attempt.log())
        return ["sh", "-c", line[0]] if line else []

    def stopped(self, folder: Path) -> list[str]:
        """A run that was asked to stop leaves a checkpoint of its last whole step."""
        found = read(folder)
        last = max((line["step"] for line in found.metrics), default=0)
        if found.last_step < last:
            return [f"stopped after step {last}, but the last checkpoint is of step {found.last_step}"]
        return []

    def ended(self, folder: Path) -> None:
        """Nothing is noted between attempts: the records hold everything."""

    def records(self, folder: Path) -> Ledger:
        return read(folder)

    def log(self, folder: Path) -> str:
        return (folder / "logs" / "run.log").read_text(errors="replace")

    def miscounted(self, found: Ledger, whole: Ledger, exact: bool) -> list[str]:
        exact, scored = exact and self.terms.exact, exact and self.terms.all_scored
        return differences(found, whole, replace(self.terms, exact=exact, all_scored=scored))


COMMON = ["rollout.max_tokens=12", "eval.problems=4", "train.eval_every=2", "train.checkpoint_every=1"]
COMMON += [rewards("brevity")]
TERMS = Terms(STEPS, 4, 4)
LORA = "model.lora={r: 4, alpha: 8}"


def in_process(name: str, *overrides: str, terms: Terms = TERMS, like: Training | None = None) -> Training:
    return Training(name, terms, ("rollout.engine=transformers", *overrides), like=like)


PLAIN = in_process("in process")
SPARSE = in_process("in process, checkpoints every 2 steps", "train.checkpoint_every=2", like=PLAIN)
LORA_MERGED = in_process("in process, LoRA", LORA)
REFILL = in_process("in process, refill", "rollout.refill=1")


RANKS = replace(in_process("two processes", "train.processes=2", "train.max_restarts=9"), seconds=900.0)


def rewarded(function: str, all_scored: bool = True, **settings: float) -> Training:
    """In process, under another function of strange_rewards.py. Not `all_scored`: a whole step may have no reward."""
    terms = replace(TERMS, exact=False, all_scored=all_scored)
    overrides = [rewards(function, **settings)] + ([] if all_scored else ["train.max_failed_share=1.0"])
    return in_process(f"in process, {function}", *overrides, terms=terms, like=PLAIN)


# A server is given up soon, so that one that stands still is noticed within the test's time. Long answers, so that a
# fault meets them.
SERVER = (
    "rollout.max_tokens=48",
    "rollout.server.request_timeout=20",
    "rollout.server.sync_timeout=20",
    "rollout.server.max_restarts=8",
)


def vllm(name: str, *overrides: str, steps: int, max_staleness: int = 0) -> Training:
    """Not to the bit; its prompts are those of the run in process with as many steps."""
    terms = replace(TERMS, steps=steps, max_staleness=max_staleness, exact=False)
    like = in_process(f"in process, {steps} steps", terms=replace(TERMS, steps=steps))
    return Training(name, terms, (*SERVER, *overrides), 900.0, like)


VLLM = vllm("vLLM", steps=10)
VLLM_STALE = vllm("vLLM, stale by 1", steps=10, max_staleness=1)
VLLM_ADAPTER = vllm("vLLM, LoRA adapter, stale by 2", LORA.replace("}", ", sync: adapter}"), steps=10, max_staleness=2)
VLLM_MERGED = vllm("vLLM, LoRA merged", LORA.replace("}", ", sync: merged}"), steps=10)
