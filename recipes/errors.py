"""How the `zero` command ends: what each error means to it, said in one message and one exit code.

    0 done    1 a run that failed    2 bad input    130 stopped by Ctrl-C

Nothing heavy is imported before an error has to be named: `zero --help` must answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import typer

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class InputError(ValueError):
    """What the user gave cannot be used. One message: what is wrong, what was expected, what to do."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors that are expected into one message and an exit code; any other is a bug and shows itself."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error  # what a shell expects of a command that Ctrl-C stopped
    except tuple(_codes()) as error:
        fail(error, next(code for kind, code in _codes().items() if isinstance(error, kind)))


def fail(error: BaseException, code: int) -> NoReturn:
    typer.echo(f"{'error' if code == BAD_INPUT else 'failed'}: {error}", err=True)
    raise typer.Exit(code) from error


def _codes() -> Mapping[type[Exception], int]:
    """The exit code of each error that is expected. Imported only when there is one."""
    from eval.problems.data import DataError
    from eval.stats.compare import CompareError
    from eval.store import StoreError
    from grpo.config import ModelError
    from grpo.losses import LossError
    from grpo.prompts import PromptError
    from grpo.record.trackers import TrackerError
    from grpo.rollout.engine import RolloutError
    from grpo.rollout.vllm.attached import AttachedError
    from grpo.signal.advantage import AdvantageError
    from rewards import RewardError

    of_settings = (AdvantageError, AttachedError, LossError, ModelError, PromptError, RewardError, TrackerError)
    of_files = (CompareError, DataError, StoreError)
    failed = (RolloutError, FloatingPointError, OSError)
    return {**dict.fromkeys((InputError, *of_settings, *of_files), BAD_INPUT), **dict.fromkeys(failed, FAILED)}
