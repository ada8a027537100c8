"""The host's side of host.py: loads a user's environment once, and forks a process for each episode."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import sys
from contextlib import suppress
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from grpo.environments.environment import (
    LOADED,
    Environment,
    EnvironmentRefusedError,
    EpisodeFailedError,
    Player,
    load_environment,
)
from grpo.environments.host import FAILED, own_rows
from rewards.user.loading import Purpose, user_code
from rewards.user.process_tree import PR_SET_PDEATHSIG, guard


def serve(control_fd: int, parent: int) -> None:
    """Until the parent closes the connection or dies."""
    guard(parent, control_fd)
    control = Connection(control_fd)
    name, config, base_dir = control.recv()
    try:
        environment = load_environment(name, config, base_dir)
    except EnvironmentRefusedError as error:
        control.send(EnvironmentRefusedError(str(error)))
        return
    control.send("ready")
    living: dict[int, int] = {}  # number of the episode -> process
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            what, about = control.recv()
            _reap(living)
            if what == "rows":
                control.send(_rows(name, environment, *about))
            elif what == "fork":
                connection = reduction.recv_handle(control)
                living[about] = _fork(name, environment, connection, control)
                os.close(connection)
            elif about in living:
                with suppress(ProcessLookupError):
                    os.killpg(living[about], signal.SIGKILL)


def _rows(name: str, environment: Environment, split: str, n: int) -> Any:
    try:
        with user_code(name, None, f"making {n} rows of {split}", LOADED):
            return own_rows(environment, split, n)
    except EnvironmentRefusedError as error:
        return EnvironmentRefusedError(str(error))


def _reap(living: dict[int, int]) -> None:
    """Ended processes keep their number until they are waited for: none that is killed is another by then."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            for number in [number for number, process in living.items() if process == ended]:
                del living[number]


def _fork(name: str, environment: Environment, connection: int, control: Connection) -> int:
    host = os.getpid()
    if process := os.fork():
        with suppress(OSError):  # also done by the process itself: whoever comes first
            os.setpgid(process, process)
        return process
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == host:
            control.close()
            _play(name, environment, Connection(connection))
    finally:
        os._exit(0)


def _play(name: str, environment: Environment, connection: Connection) -> None:
    """One episode."""
    player, failed = Player(environment), Purpose("environment", partial(EpisodeFailedError, FAILED))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with suppress(EOFError, ConnectionError):
        while True:
            method, (argument, *seed) = connection.recv()
            if seed:
                _seed_all(str(argument["id"]))
            try:
                with user_code(name, getattr(environment, method, None), f"in {method}", failed):
                    reply = loop.run_until_complete(getattr(player, method)(argument))
            except EpisodeFailedError as error:
                reply = error
            if seed:
                _seed_all(seed[0])
            connection.send(reply)


def _seed_all(seed: str) -> None:
    """All episodes are copies of one process: each would draw the same random numbers, and others in another run.

    What `start` draws is the row's, as a group's episodes must begin alike; what comes later, the episode's.
    """
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(random.getrandbits(32))
