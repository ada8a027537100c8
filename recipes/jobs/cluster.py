"""A run on a cluster of Ray: the same processes as on one machine, in bundles that Ray places.

    zero run RECIPE            the launcher, on any node: asks for the bundles, watches, passes signals on
      TrainerHost              one of Ray's actors in each of the trainer's bundles: starts that machine's ranks
        zero run RECIPE        rank 0, the leader: the whole run, see train.py; places the servers (fleet/placed.py)
        zero run RECIPE        the other ranks, see processes.py

When a rank ends that should not, or its machine is lost, all ranks are ended and started again from the last
checkpoint, train.max_restarts times: on the same bundles, which Ray lays anew where there is room.

Nothing outlives the launcher, however that ends: Ray takes back the bundles and ends the actors in them, a rank dies
with its actor (PR_SET_PDEATHSIG), and a server with its own (vllm/watch.py).
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from grpo.rollout.access import TOKEN_VARIABLE, token
from grpo.rollout.engine import RolloutError
from grpo.rollout.fleet.host import Host
from grpo.rollout.fleet.ray import ClusterError, Room, connect, nodes, there_is, why_lost
from recipes.errors import Stopped
from recipes.jobs.gang import STREAMS, Progress, Rank, TrainerHost
from recipes.jobs.machines import SERVER, TRAINER, Nonce, complaint, files_of, nonce_in
from recipes.jobs.processes import OUTCOME, OUTCOME_FILE
from recipes.schema.cluster import bundles, in_words
from recipes.schema.recipe import Recipe

POLL = 0.3  # seconds
CALL = 60.0  # seconds in which an actor that is there starts processes, or ends them
LAST_WORDS = 10.0  # seconds that other ranks have to end once the leader has


def launch_on_cluster(recipe: Recipe, arguments: Sequence[str], folder: Path) -> int:
    """Run `zero` with the arguments on the cluster that the recipe names. Returns its exit code.

    Raises ClusterError if the cluster cannot be used so, RolloutError if too little of it is left.
    """
    import ray

    address = connect(recipe.cluster.address or "")
    if not token():
        os.environ[TOKEN_VARIABLE] = secrets.token_hex(32)  # this run's, for servers that others can reach
    launcher = _Launcher(recipe, arguments, folder.resolve(), address)
    threading.Thread(target=launcher.run, daemon=True).start()
    while not launcher.ended.is_set():
        try:
            launcher.ended.wait(1.0)
        except KeyboardInterrupt as stop:  # comes once, see recipes/errors.py
            launcher.stopped_by = stop.exit_code - 128 if isinstance(stop, Stopped) else signal.SIGINT
    ray.shutdown()
    if launcher.stopped_by and (launcher.error is not None or launcher.code is None):
        raise Stopped(launcher.stopped_by)
    if launcher.error is not None:
        raise launcher.error
    assert launcher.code is not None
    return launcher.code


class _StopError(Exception):
    """The launcher was asked to stop, and no leader is there that could be told."""


class _LostError(Exception):
    """All ranks have to be started again. The message says why."""


class _Launcher:
    """In a thread of its own: Ray's calls turn any signal's exception into Ctrl-C's."""

    def __init__(self, recipe: Recipe, arguments: Sequence[str], folder: Path, address: str) -> None:
        self._recipe, self._arguments, self._folder, self._address = recipe, list(arguments), folder, address
        self._hosts: dict[int, Any] = {}  # of the trainer's bundles
        self._addresses: dict[int, str] = {}
        self.ended = threading.Event()
        self.stopped_by: int | None = None
        self.code: int | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._room() as room:
                self.code = self._run(room)
        except _StopError:
            pass
        except Exception as error:  # of a thread: raised again by the main one
            self.error = error
        finally:
            self.ended.set()

    # -- The room -------------------------------------------------------------------------------------------------

    @contextmanager
    def _room(self) -> Iterator[Room]:
        """The run's bundles. Raises ClusterError if the cluster has no room for them."""
        from ray.util import placement_group, remove_placement_group

        cluster = self._recipe.cluster
        gpus = cluster.gpus if cluster.gpus is not None else any(has["GPU"] for has in nodes().values())
        trainer, servers = bundles(self._recipe, gpus)
        asked = f"{in_words(trainer)} for the trainer" + (f", {in_words(servers)} for servers" if servers else "")
        typer.echo(f"cluster {self._address}: {there_is()}. Asked for: {asked}")
        name = f"zero-{secrets.token_hex(6)}"
        group = placement_group([*trainer, *servers], strategy=cluster.strategy, name=name)
        try:
            end = time.monotonic() + cluster.room_timeout
            while not group.wait(1.0):
                self._heed_stop()
                if time.monotonic() > end:
                    raise ClusterError(
                        f"cluster.address: the cluster has no room for this run, or others have it: asked for {asked}; "
                        f"there is {there_is()} (waited for {cluster.room_timeout:g} s, cluster.room_timeout). Change "
                        "cluster.nodes, cpus_per_process, cpus_per_server or gpus_per_server, train.processes or "
                        "rollout.server.replicas, or add machines"
                    )
            yield Room(self._address, name, [*trainer, *servers], len(trainer), cluster.room_timeout)
        finally:
            remove_placement_group(group)

    def _heed_stop(self) -> None:
        if self.stopped_by:
            raise _StopError

    # -- The machines ---------------------------------------------------------------------------------------------

    def _look(self, room: Room) -> None:
        """Have a host in each of the trainer's bundles, and see that every new machine can do its part."""
        new = [bundle for bundle in range(room.first_server) if bundle not in self._hosts]
        self._hosts |= {bundle: room.host(TrainerHost, bundle) for bundle in new}
        with nonce_in(self._folder) as nonce:
            for bundle in new:
                self._addresses[bundle] = self._checked(room, self._hosts[bundle], TRAINER, nonce)

    def _look_at_servers(self, room: Room) -> list[str]:
        """Addresses of the machines of the servers' bundles."""
        import ray

        found = []
        with nonce_in(self._folder) as nonce:
            for bundle in range(room.first_server, len(room.bundles)):
                host = room.host(Host, bundle)
                found.append(self._checked(room, host, SERVER, nonce))
                ray.kill(host)  # the leader's own takes its place
        return found

    def _checked(self, room: Room, host: Any, part: str, nonce: Nonce) -> str:
        """The machine's address. Raises ClusterError if it cannot do its part."""
        (seen,) = self._answers([host.look.remote(files_of(self._recipe, nonce, part))], room.seconds)
        if problem := complaint(seen, part, self._folder):
            raise ClusterError(f"cluster: {problem}")
        return str(seen.address)

    def _answers(self, refs: list[Any], seconds: float) -> list[Any]:
        """What actors answer. Raises _LostError if one is no more, RolloutError if one does not answer in time."""
        import ray
        from ray.exceptions import RayActorError

        end, left = time.monotonic() + seconds, refs
        while left:
            self._heed_stop()
            _, left = ray.wait(left, num_returns=len(left), timeout=POLL)
            if left and time.monotonic() > end:
                raise RolloutError(
                    f"no machine takes a part of the run, or the one that has it is silent, for {seconds:g} s; there "
                    f"is {there_is()}"
                )
        try:
            return list(ray.get(refs))
        except RayActorError as error:
            raise _LostError(why_lost(error)) from error

    # -- The ranks ------------------------------------------------------------------------------------------------

    def _run(self, room: Room) -> int:
        """The command's exit code. Raises ClusterError, RolloutError."""
        try:
            self._begin(room)
            most, reason = self._recipe.train.max_restarts, ""
            for attempt in range(most + 1):
                if attempt:
                    typer.echo(f"{reason}. All start again, from the last checkpoint ({attempt} of {most})", err=True)
                try:
                    self._again(room)
                    return self._attempt(room, attempt)
                except _LostError as lost:
                    reason = str(lost)
                if self.stopped_by:  # it was told, and could not finish
                    raise _StopError
                self._end()
            raise RolloutError(
                f"{reason} (started {most + 1} times, train.max_restarts is {most}); what the processes printed: "
                f"{self._logs}"
            )
        finally:
            self._end()
            self._leave()

    def _begin(self, room: Room) -> None:
        """See that every machine of the run can do its part. Raises ClusterError if one cannot."""
        try:
            self._look(room)
            servers = self._look_at_servers(room)
        except (_LostError, RolloutError) as error:
            raise ClusterError(f"cluster: {error}") from error
        trainer = ", ".join(self._addresses[bundle] for bundle in range(room.first_server))
        typer.echo(f"trainer on {trainer}" + (f"; servers on {', '.join(servers)}" if servers else ""))

    def _again(self, room: Room) -> None:
        """Hosts in the place of those that were lost, where Ray has laid their bundles."""
        try:
            self._look(room)
        except ClusterError as error:
            raise RolloutError(f"after a loss: {error}") from error

    @property
    def _logs(self) -> Path:
        return self._folder / "logs" / "ranks"

    def _ranks(self, room: Room, attempt: int, port: int) -> dict[int, list[Rank]]:
        """Of each bundle."""
        train, nodes_ = self._recipe.train, room.first_server
        each = train.processes // nodes_
        common = room.as_variable() | {
            OUTCOME: str(self._logs / OUTCOME_FILE),
            "MASTER_ADDR": self._addresses[0],
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(train.processes),
            "LOCAL_WORLD_SIZE": str(each),
            "TORCHELASTIC_RUN_ID": room.group,
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
            "PYTHONUNBUFFERED": "1",
        }

        def rank(bundle: int, local: int) -> Rank:
            number = bundle * each + local
            own = room.variables(bundle) | {"RANK": str(number), "LOCAL_RANK": str(local), "GROUP_RANK": str(bundle)}
            return Rank(number, self._arguments, common | own, self._logs / f"rank-{number}", os.getcwd())

        return {bundle: [rank(bundle, local) for local in range(each)] for bundle in range(nodes_)}

    def _attempt(self, room: Room, attempt: int) -> int:
        """All ranks from a start to their end. Returns the leader's exit code; raises _LostError if it left none."""
        (port,) = self._answers([self._hosts[0].free_port.remote()], CALL)
        ranks = self._ranks(room, attempt, port)
        starts = [self._hosts[bundle].start.remote(its, attempt == 0) for bundle, its in ranks.items()]
        since = self._answers(starts, CALL)[0]
        told, leader_ended = False, 0.0
        while True:
            if self.stopped_by and not told:
                self._hosts[0].signal.remote(self.stopped_by)
                told = True
            time.sleep(POLL)
            progress = self._polled(since)
            for stream, text in enumerate(progress[0].printed):
                since[stream] += len(text)
                typer.echo(text, nl=False, err=STREAMS[stream] == "stderr")
            ended = {number: code for its in progress.values() for number, code in its.ended.items()}
            if ended[0] is not None and progress[0].outcome is not None:
                leader_ended = leader_ended or time.monotonic()
                if None not in ended.values() or time.monotonic() > leader_ended + LAST_WORDS:
                    return progress[0].outcome
            elif lost := [number for number, code in ended.items() if code or (number == 0 and code is not None)]:
                where = self._addresses[lost[0] // len(ranks[0])]
                raise _LostError(f"trainer process {lost[0]} on {where} ended with {ended[lost[0]]}")

    def _polled(self, since: list[int]) -> dict[int, Progress]:
        """What all hosts say; waits while the network is away. Raises _LostError, which names one that is no more."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError

        asked = {bundle: host.poll.remote(since) for bundle, host in self._hosts.items()}
        found: dict[int, Progress] = {}
        while len(found) < len(asked):
            left = [bundle for bundle in asked if bundle not in found]
            done, _ = ray.wait([asked[bundle] for bundle in left], num_returns=1, timeout=1.0)
            for bundle in left:
                if asked[bundle] not in done:
                    continue
                try:
                    found[bundle] = ray.get(asked[bundle])
                except ActorUnavailableError:
                    time.sleep(1.0)
                    asked[bundle] = self._hosts[bundle].poll.remote(since)
                except RayActorError as error:
                    del self._hosts[bundle]
                    raise _LostError(
                        f"{self._addresses[bundle]}, a trainer's machine, is lost: {why_lost(error)}"
                    ) from error
        return found

    def _end(self) -> None:
        """Every rank; a host that cannot be asked to is ended with its ranks, as soon as Ray reaches it."""
        import ray

        killing = {bundle: host.kill.remote() for bundle, host in self._hosts.items()}
        done, _ = ray.wait(list(killing.values()), num_returns=len(killing), timeout=CALL) if killing else ([], [])
        for bundle, ref in killing.items():
            with suppress(ray.exceptions.RayError):
                if ref in done:
                    ray.get(ref)
                    continue
            ray.kill(self._hosts.pop(bundle))

    def _leave(self) -> None:
        import ray

        for host in self._hosts.values():
            ray.kill(host)
