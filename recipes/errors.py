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
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

FAILED, BAD_INPUT = 1, 2
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
    from grpo.rollout.access import AccessError
    from grpo.rollout.engine import RolloutError
    from grpo.rollout.fleet.ray import ClusterError
    from grpo.rollout.vllm.attached import AttachedError
    from grpo.signal.advantage import AdvantageError
    from rewards import RewardError

    of_settings = (
        AccessError,
        AdvantageError,
        AttachedError,
        ClusterError,
        LossError,
        ModelError,
        PromptError,
        RewardError,
        TrackerError,
    )
    of_files = (CompareError, DataError, StoreError)
    failed = (RolloutError, FloatingPointError, MemoryError, OSError)
    return {**dict.fromkeys((InputError, *of_settings, *of_files), BAD_INPUT), **dict.fromkeys(failed, FAILED)}


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
