"""When a fault strikes: at a stage that the run says in its log, and a random while later."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tests.chaos.enclosure import Attempt


@dataclass(frozen=True, slots=True)
class Moment:
    """Up to `within` seconds after the run's log says `text`. Example: Moment("step 2: sampling", 0.4)"""

    text: str
    within: float

    def wait(self, attempt: Attempt, rng: random.Random, timeout: float) -> bool:
        """Whether it came before the command ended. What the log said at an earlier moment does not count."""
        end = time.monotonic() + timeout
        while (found := attempt.unseen_log().find(self.text)) < 0:
            if not attempt.running() or time.monotonic() > end:
                return False
            time.sleep(0.002)
        attempt.log_seen += found + len(self.text)
        time.sleep(rng.uniform(0, self.within))
        return attempt.running()


@dataclass(frozen=True, slots=True)
class Stored:
    """Up to `within` seconds after an evaluation has stored `n` generations."""

    n: int
    within: float = 0.1

    @property
    def text(self) -> str:
        return f"{self.n} generations stored"

    def wait(self, attempt: Attempt, rng: random.Random, timeout: float) -> bool:
        """As Moment's."""
        end, lines = time.monotonic() + timeout, attempt.folder / "generations.jsonl"
        while not lines.is_file() or lines.read_bytes().count(b"\n") < self.n:
            if not attempt.running() or time.monotonic() > end:
                return False
            time.sleep(0.002)
        time.sleep(rng.uniform(0, self.within))
        return attempt.running()


# The lengths are those of the stages of training.py's runs in process; a vLLM run's are longer.
IMPORTING = Moment("", 6.0)  # at any time up to the first line
LOADING = Moment("loading the model", 0.3)
STARTING = Moment("starting the rollout engine", 0.2)
BEFORE = Moment("measuring held-out accuracy at step 0", 0.2)
REPORTING = Moment("writing the report", 0.3)


def sampling(step: int, within: float = 0.3) -> Moment:
    return Moment(f"step {step}: sampling", within)


def training(step: int, within: float = 0.05) -> Moment:
    return Moment(f"step {step}: training", within)


def sending(version: int, within: float = 0.01) -> Moment:
    return Moment(f"sending weights, version {version}", within)


def saving(step: int, within: float = 0.1) -> Moment:
    return Moment(f"step {step}: writing the checkpoint", within)


def measuring(step: int, within: float = 0.1) -> Moment:
    return Moment(f"measuring held-out accuracy at step {step}", within)
