"""A run of several trainer processes on this machine: torchrun's agent starts them, and all again when one is lost.

    zero run RECIPE            launch: the agent, in a thread; passes signals on to the leader
      zero run RECIPE          rank 0, the leader: the whole run, see train.py
      zero run RECIPE          the other ranks: follow the leader, see grpo/policy/learner.py

Started by torchrun itself (several nodes), `zero run` is a rank at once. A leader that ends as a run may end (done, bad
input, lost servers, stopped) leaves the command's exit code in a file and ends with 0: else the agent would start all
ranks again.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import typer

from recipes.errors import FAILED, Stopped

OUTCOME = "ZERO_OUTCOME"  # variable: the file where the leader leaves the exit code; beside it its process's number
OUTCOME_FILE, LEADER = "exit_code", "leader"
GRACE = 60  # seconds that ranks have to end by themselves when another one is lost, or the run is stopped
PR_SET_PDEATHSIG = 1
# torch 2.13's agent keeps one store for all starts (elastic/rendezvous/dynamic_rendezvous.py), where ranks that are
# started again find the addresses of the dead ones and wait for ever. "1" gives each start a store of its own.
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def rank() -> int | None:
    """This process's number among the trainer's, if torchrun's agent started it, ours or the user's; else None."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def restarted() -> bool:
    """Whether the agent has started this rank again because one was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


# -- The launcher -------------------------------------------------------------------------------------------------


def launch(arguments: Sequence[str], processes: int, max_restarts: int, logs: Path) -> int:
    """Run `zero` with the arguments as `processes` ranks. Returns its exit code.

    Args:
        max_restarts: how often all are started again, from the last checkpoint, when one is lost.
        logs: a folder for what the ranks other than the leader print, and for the exit code.
    """
    logs.mkdir(parents=True, exist_ok=True)
    outcome = logs / OUTCOME_FILE
    outcome.unlink(missing_ok=True)  # of a launcher that was killed
    failures: list[str] = []
    ended = threading.Event()

    def run() -> None:
        try:
            _run_agent(arguments, processes, max_restarts, logs, outcome, failures)
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    while not ended.is_set():
        try:
            ended.wait(1.0)  # a join that a signal interrupts takes the thread for ended (Python 3.11)
        except KeyboardInterrupt as stop:  # comes once, see recipes/errors.py
            _pass_on(stop.exit_code - 128 if isinstance(stop, Stopped) else signal.SIGINT, outcome)
    if outcome.exists():
        return int(outcome.read_text())
    typer.echo(f"failed: {failures[0] if failures else 'the trainer processes ended without a word'}", err=True)
    return FAILED


def _run_agent(
    arguments: Sequence[str], processes: int, max_restarts: int, logs: Path, outcome: Path, failures: list[str]
) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is said in one message, by us
    os.environ[OUTCOME] = str(outcome)
    os.environ[OWN_STORE] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.2,
        local_addr="127.0.0.1",
        shutdown_timeout=GRACE,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects={number: Std.ALL for number in range(1, processes)}),
    )
    # -P: a rewards.py in the working folder must not stand in the place of our package.
    program = ["-P", "-c", "from recipes.command.main import main; main()", *arguments]
    try:
        elastic_launch(config, sys.executable)(*program)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        failures.append(
            f"trainer process {number} ended with {failure.exitcode} (started {max_restarts + 1} times, "
            f"train.max_restarts is {max_restarts}); what the processes printed: {logs}"
        )
    except Exception as error:  # of a thread: it must be said by the launcher
        failures.append(f"the trainer's processes cannot be started: {error!r}")


def _pass_on(number: int, outcome: Path) -> None:
    """To the leader, if there is one at present; without one there is nothing that could be kept."""
    with suppress(OSError, ValueError):
        os.kill(int(outcome.with_name(LEADER).read_text()), number)


# -- A rank -------------------------------------------------------------------------------------------------------


@contextmanager
def as_rank() -> Iterator[None]:
    """The life of a rank: it goes with the agent, and ends as the agent has to see it."""
    if rank() is None:
        yield
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    outcome = Path(os.environ[OUTCOME]) if OUTCOME in os.environ else None
    if outcome and outcome.exists():  # the run is over, though the agent has started it again
        _leave(0)
    if rank():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the leader says when it is over
    elif outcome:
        outcome.with_name(LEADER).write_text(str(os.getpid()))
    try:
        yield
    except typer.Exit as end:
        if rank() == 0 and outcome:
            outcome.write_text(str(end.exit_code))
        _leave(0 if outcome else end.exit_code)
    except BaseException as error:
        from grpo.policy.shard.ranks import RankLostError

        if rank() and outcome and outcome.exists():  # lost the leader, who had ended
            _leave(0)
        if isinstance(error, RankLostError):
            typer.echo(str(error), err=True)
        else:
            traceback.print_exc()
        _leave(FAILED)


def _leave(code: int) -> None:
    """At once: threads that wait for other ranks would wait for ever."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    logging.shutdown()
    os._exit(code)
