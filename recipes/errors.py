"""How the `zero` command ends: what each error and each signal means to it, said in one message and one exit code.

    0 done    1 a run that failed    2 bad input    130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP

A signal raises Stopped, as Ctrl-C raises KeyboardInterrupt; in `run_async` it cancels what runs there, which can then
put things in order. Until that is done further signals change nothing, but for Ctrl-C: it ends the process at once.

Nothing heavy is imported before an error has to be named: `zero --help` must answer at once.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

FAILED, BAD_INPUT = 1, 2
# What the extras cpu and gpu bring, and `pip install zero-rl` alone, which is enough for rewards, does not.
_TRAINING = (
    "torch transformers trl peft datasets accelerate safetensors numpy matplotlib plotext pyarrow aiohttp xxhash"
)
OF_TRAINING = frozenset([*_TRAINING.split(), "vllm"])
INSTALL = "this command needs what training needs: pip install 'zero-rl[cpu]', or 'zero-rl[gpu]' with an NVIDIA GPU"
STOPPING = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class InputError(ValueError):
    """What the user gave cannot be used. One message: what is wrong, what was expected, what to do."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end. `exit_code` is what a shell expects of one that the signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__(STOPPING[signal.Signals(number)])
        self.exit_code = 128 + number


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn signals and the errors that are expected into one message and an exit code; any other error is a bug."""
    try:
        with _signals():
            yield
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        typer.echo(f"stopped by {stop}", err=True)
        raise typer.Exit(stop.exit_code) from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OF_TRAINING:
            raise
        fail(InputError(f"{error.name} is not installed: {INSTALL}"), BAD_INPUT)
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        fail(error, code)


def fail(error: BaseException, code: int) -> NoReturn:
    typer.echo(f"{'error' if code == BAD_INPUT else 'failed'}: {error}", err=True)
    raise typer.Exit(code) from error


def code_of(error: Exception) -> int | None:
    """Its exit code, None for a bug. An error's class is only looked up where its module is imported already."""
    for code, known in ((BAD_INPUT, _OF_INPUT), (FAILED, _OF_A_RUN)):
        for module, names in known.items():
            kinds = [getattr(sys.modules[module], name) for name in names] if module in sys.modules else []
            if isinstance(error, tuple(kinds)):
                return code
    return None


_OF_INPUT = {
    "recipes.errors": ["InputError"],
    "eval.problems.data": ["DataError"],
    "eval.stats.compare": ["CompareError"],
    "eval.store": ["StoreError"],
    "grpo.config": ["ModelError"],
    "grpo.environments.environment": ["EnvironmentRefusedError"],
    "grpo.losses": ["LossError"],
    "grpo.prompts": ["PromptError"],
    "grpo.record.trackers": ["TrackerError"],
    "grpo.rollout.access": ["AccessError"],
    "grpo.rollout.fleet.ray": ["ClusterError"],
    "grpo.rollout.vllm.attached": ["AttachedError"],
    "grpo.sft.errors": ["SFTError"],
    "grpo.signal.advantage": ["AdvantageError"],
    "rewards.types": ["RewardError"],
}
_OF_A_RUN = {
    "grpo.rollout.engine": ["RolloutError"],
    "builtins": ["FloatingPointError", "MemoryError", "OSError"],
}


# -- Signals ------------------------------------------------------------------------------------------------------


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, in which a signal cancels `main`; when that has ended, Stopped is raised."""
    import asyncio

    async def cancellable() -> T:
        _handler.task = asyncio.current_task()
        try:
            return await main
        finally:
            _handler.task = None

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if _handler.came is None:
            raise
        raise Stopped(_handler.came) from None


class _Handler:
    """Of the signals in STOPPING."""

    came: int | None = None  # the first of them
    task: asyncio.Task[Any] | None = None  # what it cancels

    def __call__(self, number: int, _: object) -> None:
        if self.came is None:
            self.came = number
            if number == signal.SIGHUP:
                _leave_terminal()
            if self.task is None:
                raise Stopped(number)
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)
        elif number == signal.SIGINT:  # the watchers of our children see that we are gone
            if os.isatty(2):
                os.write(2, b"\x1b[?25h")  # the cursor, which a live display hides
            if "grpo.record.keys" in sys.modules:
                sys.modules["grpo.record.keys"].give_back()
            os._exit(128 + number)


_handler = _Handler()


@contextmanager
def _signals() -> Iterator[None]:
    """Handles the signals that are not ignored: nohup ignores SIGHUP, a shell its background jobs' SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    _handler.came = None
    try:
        for number in mine:
            signal.signal(number, _handler)
        yield
    finally:
        # A process that was stopped is ending: whatever comes while it does must not kill it.
        for number in mine if _handler.came is None else []:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _leave_terminal() -> None:
    """A terminal that has hung up takes no output: the error would come between a run and its checkpoint."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
