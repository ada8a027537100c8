"""Where environments run: built-in ones here, a user's each episode in a process of its own.

    trainer ──(fork, kill)──▶ host, which has loaded the environment once ──forks──▶ one process an episode
       └────────────── start, step, score ──────────────────────────────────────────┘

A process that was forked from the host has a copy of the environment to itself, made in a millisecond. It may hang,
crash and use signals: past `call_timeout` it is killed, and its episode alone has failed. Whatever an environment
started ends with the host (rewards/user/process_tree.py).
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from multiprocessing import Pipe, reduction
from pathlib import Path
from typing import Any, Protocol

from grpo.environments.environment import (
    BUILT_IN,
    EnvironmentRefusedError,
    EpisodeFailedError,
    Player,
    load_environment,
)
from grpo.environments.settings import EnvironmentSettings
from grpo.types import Episode, Message, Prompt
from rewards.types import Score
from rewards.user.loading import search_path
from rewards.user.process_tree import end

START_SECONDS = 120.0  # that the host may need to import the environment
FAILED, TOO_LATE = "environment_error", "environment_timeout"  # causes of failures
_LENGTH = struct.Struct("!i")  # multiprocessing's Connection puts it before each message


class Session(Protocol):
    """One episode. Its methods raise EpisodeFailedError."""

    async def start(self, row: Mapping[str, Any], seed: str) -> tuple[Message, ...]:
        """What is said first, to one row always the same.

        seed: of Python's and numpy's own random numbers after that, where a process has them to itself.
        """
        ...

    async def step(self, reply: str) -> tuple[Message, ...]:
        """What is said to that; () at the end."""
        ...

    async def score(self, episode: Episode) -> Score | None: ...


class EnvironmentHost:
    """Makes the environment of the settings, and episodes with it.

        with closing(EnvironmentHost(settings)) as host:
            async with host.session() as session:
                await session.start(row, "")

    Raises EnvironmentRefusedError if it cannot be made.
    """

    def __init__(self, settings: EnvironmentSettings, base_dir: Path | None = None) -> None:
        self._settings, self._base_dir = settings, (base_dir or Path()).resolve()
        self._environment = load_environment(settings.name, settings.config) if settings.name in BUILT_IN else None
        self._closed = False
        self._number = 0
        if self._environment is None:
            self._start()

    def rows(self, split: str, n: int) -> list[dict[str, Any]] | None:
        """The environment's own problems, where it has them; see `own_rows`. Raises EnvironmentRefusedError."""
        if self._environment is not None:
            return own_rows(self._environment, split, n)
        self._control.send(("rows", (split, n)))
        reply = self._received(START_SECONDS)
        if isinstance(reply, EnvironmentRefusedError):
            raise reply
        return reply

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """An episode's environment; it is gone at the end."""
        if self._environment is not None:
            yield _Here(copy.deepcopy(self._environment), self._settings.call_timeout)
            return
        if self._process.poll() is not None:
            await asyncio.to_thread(self._start)
        ours, theirs = socket.socketpair()
        self._number += 1
        number = self._number
        with theirs:
            self._tell(("fork", number), theirs)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            yield _Forked(reader, writer, self._settings)
        finally:
            writer.close()
            self._tell(("kill", number))

    def close(self) -> None:
        self._closed = True
        if self._environment is None:
            end(self._process)

    def _tell(self, what: tuple[str, int], descriptor: socket.socket | None = None) -> None:
        """A host that is gone is found at the next episode: this one sees its connection closed."""
        with suppress(OSError):
            self._control.send(what)
            if descriptor is not None:
                reduction.send_handle(self._control, descriptor.fileno(), None)

    def _start(self) -> None:
        if self._closed:
            raise EnvironmentRefusedError(f"task.environment {self._settings.name!r}: its host was closed")
        self._control, theirs = Pipe()
        program = f"from grpo.environments.serve import serve; serve({theirs.fileno()}, {os.getpid()})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": search_path()},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        theirs.close()
        self._control.send((self._settings.name, self._settings.config, self._base_dir))
        reply = self._received(START_SECONDS)
        if isinstance(reply, EnvironmentRefusedError):
            end(self._process)
            raise reply

    def _received(self, seconds: float) -> Any:
        try:
            if self._control.poll(seconds):
                return self._control.recv()
            problem = f"took more than {seconds:g} seconds"
        except (EOFError, ConnectionError):
            problem = f"ended its process with code {self._process.wait()}"
        end(self._process)
        raise EnvironmentRefusedError(f"task.environment {self._settings.name!r} {problem} while it was being loaded")


async def start_again(session: Session, prompt: Prompt, begun: tuple[Message, ...], seed: str) -> None:
    """Start an episode of the prompt, which renders what `start` said before.

    Raises EpisodeFailedError, also where it says something else now.
    """
    said = await session.start({**prompt.columns, "id": prompt.id, "answer": prompt.answer}, seed)
    if said != begun:
        why = "to one row it must say the same each time: draw what it draws from random.Random(row['seed'])"
        raise EpisodeFailedError(FAILED, f"start said {said!r}, and {begun!r} before: {why}")


def own_rows(environment: Any, split: str, n: int) -> list[dict[str, Any]] | None:
    """What its method `rows(split, n)` returns, split being train or held_out; None without one."""
    rows = getattr(environment, "rows", None)
    if rows is None:
        return None
    found = list(rows(split, n))
    if not found or not all(isinstance(row, Mapping) for row in found):
        raise EnvironmentRefusedError(
            f"task.environment: rows({split!r}, {n}) gave {str(found)[:80]}, expected dictionaries, one or more"
        )
    return [dict(row) for row in found]


class _Here:
    """In this process: a built-in environment, which neither hangs nor crashes."""

    def __init__(self, environment: Any, seconds: float) -> None:
        self._player, self._seconds = Player(environment), seconds

    async def start(self, row: Mapping[str, Any], seed: str) -> tuple[Message, ...]:
        return await self._call("start", row)

    async def step(self, reply: str) -> tuple[Message, ...]:
        return await self._call("step", reply)

    async def score(self, episode: Episode) -> Score | None:
        return await self._call("score", episode)

    async def _call(self, method: str, argument: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                return await getattr(self._player, method)(argument)
        except TimeoutError as error:
            raise _too_late(method, self._seconds) from error
        except Exception as error:  # broad: whatever goes wrong with one reply fails its episode, not the run
            raise EpisodeFailedError(FAILED, f"{method} raised {type(error).__name__}: {error}") from error


class _Forked:
    """In a process of its own, at the other end of the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: EnvironmentSettings
    ) -> None:
        self._reader, self._writer = reader, writer
        self._name, self._seconds = settings.name, settings.call_timeout

    async def start(self, row: Mapping[str, Any], seed: str) -> tuple[Message, ...]:
        return await self._call("start", dict(row), seed)

    async def step(self, reply: str) -> tuple[Message, ...]:
        return await self._call("step", reply)

    async def score(self, episode: Episode) -> Score | None:
        return await self._call("score", episode)

    async def _call(self, method: str, *arguments: Any) -> Any:
        message = pickle.dumps((method, arguments))
        try:
            async with asyncio.timeout(self._seconds):
                self._writer.write(_LENGTH.pack(len(message)) + message)
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                reply = pickle.loads(await self._reader.readexactly(length))
        except TimeoutError as error:
            raise _too_late(method, self._seconds) from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EpisodeFailedError(FAILED, f"{self._name}: {method} ended the episode's process") from error
        if isinstance(reply, EpisodeFailedError):
            raise reply
        return reply


def _too_late(method: str, seconds: float) -> EpisodeFailedError:
    return EpisodeFailedError(
        TOO_LATE, f"{method} took more than {seconds:g} seconds (task.environment.call_timeout), and was ended"
    )
