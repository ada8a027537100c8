"""A user's reward in a process of its own: there it may hang, crash and use signals, and training goes on.

    training ──completions, columns──▶ child: one RewardFunction, called in its main thread
             ◀──values or RewardError──┘

Training scores in a thread, so that the engine is served meanwhile. In a thread signals cannot be used: Math-Verify's
`parse` raises there, and TRL's accuracy_reward switches its timeouts off and may run for ever. In the child's main
thread both work as their authors meant. A call that takes longer than its timeout, or ends the child, gives the outcome
`timeout` or `error` for its completions, and the next call gets a fresh child. What a reward remembers is then lost.
Whatever a reward started ends with its child (rewards/user/process_tree.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rewards.graded import Completion
from rewards.registry import RewardSettings
from rewards.types import Outcome, RewardError, Score
from rewards.user.function import Returned, RewardFunction
from rewards.user.loading import search_path
from rewards.user.process_tree import end, guard

START_SECONDS = 120.0  # that the child may need to import the reward; TRL's bring torch along


class IsolatedReward:
    """A RewardFunction that is called in a child process; several threads may call it, one after the other.

    Raises RewardError as RewardFunction does.
    """

    def __init__(self, settings: RewardSettings, base_dir: Path | None = None, quiet: bool = False):
        """quiet: what the reward prints is thrown away."""
        self._output = subprocess.DEVNULL if quiet else None
        self._settings, self._base_dir = settings, (base_dir or Path()).resolve()
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._start()

    def __call__(
        self, completions: Sequence[Completion], columns: Mapping[str, Any], trainer_state: Any = None
    ) -> Returned:
        """As RewardFunction; where the child hangs or dies, a Score that says so for each completion."""
        reply = self.ask(completions, columns, trainer_state)
        return reply if isinstance(reply, Returned) else Returned([reply] * len(completions))

    def ask(
        self, completions: Sequence[Completion], columns: Mapping[str, Any], trainer_state: Any = None
    ) -> Returned | Score:
        """As RewardFunction; where the child hangs or dies, one Score that says so."""
        with self._one_at_a_time:
            if self._process.poll() is not None:
                self._start()
            reply = self._ask((list(completions), dict(columns), trainer_state), self._settings.timeout)
        if isinstance(reply, RewardError):
            raise reply
        return reply

    def restart(self) -> None:
        """A fresh child, which remembers nothing."""
        with self._one_at_a_time:
            if self._process.poll() is None:
                self._kill()
            self._start()

    def close(self) -> None:
        """End the child for good. A call that waits for it in another thread returns."""
        self._closed = True
        end(self._process)

    def _start(self) -> None:
        if self._closed:
            raise RewardError(f"reward {self._settings.name!r} was closed")
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"from rewards.user.isolated import serve; serve({theirs.fileno()}, {os.getpid()})",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": search_path()},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        theirs.close()
        reply = self._ask((self._settings, self._base_dir), START_SECONDS)
        if isinstance(reply, Score):
            raise RewardError(f"reward {self._settings.name!r} could not be loaded: {reply.reason}")
        if isinstance(reply, RewardError):
            self._kill()
            raise reply

    def _ask(self, message: Any, seconds: float) -> Any:
        """The child's reply, or a Score that says why there is none; the child is dead then."""
        reply = None
        try:
            self._connection.send(message)
            if not self._connection.poll(seconds):
                return _failed("timeout", f"reward {self._settings.name!r} took more than {seconds:g} seconds")
            reply = self._connection.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            return _failed("error", f"reward {self._settings.name!r}: its process ended with code {code}")
        else:
            return reply
        finally:
            if reply is None:  # also on Ctrl-C: a late reply would go to the next call
                self._kill()

    def _kill(self) -> None:
        end(self._process)
        self._connection.close()


def serve(connection_fd: int, parent: int) -> None:
    """The child's side: answer until the parent closes the connection or dies."""
    guard(parent, connection_fd)
    connection = Connection(connection_fd)
    settings, base_dir = connection.recv()
    try:
        reward = RewardFunction(settings, base_dir)
        connection.send("ready")
        while True:
            connection.send(_answer(reward, *connection.recv()))
    except RewardError as error:
        connection.send(error)
    except (EOFError, ConnectionError):  # the parent is gone
        return


def _answer(reward: RewardFunction, *asked: Any) -> Returned | RewardError:
    try:
        return reward(*asked)
    except RewardError as error:
        return error


def _failed(outcome: Outcome, reason: str) -> Score:
    return Score(None, None, outcome, reason)
