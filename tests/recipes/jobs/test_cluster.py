"""A run on a cluster of two hosts: trainer here, server there, and what happens when one of them is lost."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from safetensors.torch import load_file

from grpo.policy.checkpoint import checkpoints
from tests.chaos.ledger import Terms, differences, read
from tests.printed import without_loading
from tests.two_hosts import OWN_PROCESSES, Hosts, Namespace, cannot, two_hosts

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(2400)]

PROGRAM = [sys.executable, "-c", "from recipes.command.main import main; main()"]
IN_PROCESS = ("rollout.engine=transformers", "eval.problems=4", "train.eval_every=0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Hosts]:
    if reason := cannot():
        pytest.skip(reason)
    with two_hosts(head_cpus=3, far_cpus=1) as found:
        yield found


@pytest.fixture
def hosts(cluster: Hosts) -> Iterator[Hosts]:
    """Both alive, whatever the test before did; runs that a failed test leaves are ended."""
    if not cluster.far.processes():
        cluster.start_far(1)
    yield cluster
    for run in Run.started:
        if run.process.poll() is None:
            run.process.kill()  # the rest goes with it
            run.process.communicate()
    Run.started.clear()


class Run:
    """`zero run tiny_arithmetic_cpu` on the cluster, while it goes on."""

    started: ClassVar[list[Run]] = []

    def __init__(self, hosts: Hosts, output: Path, *overrides: str, recipe: str = "tiny_arithmetic_cpu") -> None:
        self.hosts, self.output = hosts, output
        settings = [
            f"cluster.address={hosts.address}",
            "cluster.strategy=SPREAD",
            "cluster.room_timeout=60",
            *overrides,
        ]
        resume = ["--resume"] if (output / "recipe.yaml").exists() else []
        line = [*PROGRAM, "run", recipe, *(part for one in settings for part in ("--set", one))]
        self.process = hosts.run([*line, "--output", str(output), *resume])
        Run.started.append(self)

    def log(self) -> str:
        file = self.output / "logs" / "run.log"
        return file.read_text() if file.exists() else ""

    def steps(self) -> int:
        file = self.output / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def until(self, condition: Callable[[], object], seconds: float = 900) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, (self.process.communicate(), self.log())
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def more_steps(self, n: int) -> None:
        wanted = self.steps() + n
        self.until(lambda: self.steps() >= wanted)

    def server_url(self) -> str:
        """Of its first server; "" before it has one."""
        file = self.output / "logs" / "server.log"
        found = re.search(r"http://10\.213\.0\.\d:\d+", file.read_text() if file.exists() else "")
        return found[0] if found else ""

    def said(self, text: str, times: int = 1) -> bool:
        return self.log().count(text) >= times

    def end(self, seconds: float = 900) -> tuple[int, str, str]:
        """Exit code, and what was printed on both streams."""
        out, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, without_loading(errors)


def with_far_server(hosts: Hosts, *overrides: str) -> Run:
    """SPREAD is what Ray tries: where it lays the server beside the trainer, another run is started."""
    for attempt in range(3):
        run = Run(hosts, hosts.near_only / f"learns-{attempt}", *overrides)
        run.until(lambda: server(hosts.far) or server(hosts.near))
        if server(hosts.far):
            run.until(run.server_url)
            return run
        run.process.kill()
        run.end()
    raise AssertionError("Ray never laid the server on the far host")


def rank(hosts: Hosts, number: int) -> psutil.Process:
    """A trainer's process, wherever it is."""
    for process in [*hosts.near.processes(), *hosts.far.processes()]:
        if process.environ().get("RANK") == str(number) and " run tiny_arithmetic_cpu" in " ".join(process.cmdline()):
            return process
    raise AssertionError(f"no rank {number}")


def server(host: Namespace) -> list[psutil.Process]:
    return [one for one in host.processes() if "vllm.entrypoints" in " ".join(one.cmdline())]


def status_without_token(hosts: Hosts, url: str) -> int:
    code = f"import http.client as h; c = h.HTTPConnection('{url.split('/')[2]}'); c.request('GET', '/health')"
    out, _ = hosts.run([sys.executable, "-c", f"{code}; print(c.getresponse().status)"]).communicate(timeout=300)
    return int(out)


def nothing_left(hosts: Hosts, within: float = 40) -> list[str]:
    """What is on the hosts but for Ray's own processes, once it has had the time to go."""
    end = time.monotonic() + within
    while (left := hosts.near.foreign() + hosts.far.foreign()) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def in_process(output: Path, steps: int) -> None:
    """The same prompts, trained on one machine and undisturbed."""
    small = [*IN_PROCESS, f"train.steps={steps}", "rollout.group_size=2", "rollout.max_tokens=4"]
    line = [*PROGRAM, "run", "tiny_arithmetic_cpu", *(part for one in small for part in ("--set", one))]
    subprocess.run([*line, "--output", str(output)], check=True, capture_output=True)


def test_a_run_over_two_hosts_learns_whatever_is_lost_and_trains_every_prompt_once(
    hosts: Hosts, tmp_path: Path
) -> None:
    steps = 24
    run = with_far_server(
        hosts,
        "train.processes=2",
        "train.checkpoint_every=2",
        "train.eval_every=0",
        "rollout.server.health_timeout=9",
        "rollout.server.request_timeout=120",
        "rollout.server.max_restarts=20",  # a busy machine is silent, too
        "train.max_restarts=5",
    )
    output = run.output
    run.until(lambda: run.steps() >= 3)
    assert status_without_token(hosts, run.server_url()) == 401

    server(hosts.far)[0].kill()
    run.until(lambda: run.said("is lost, going on without it meanwhile"))
    run.more_steps(2)

    hosts.cable(False)
    time.sleep(20)
    hosts.cable(True)
    run.more_steps(2)

    first = rank(hosts, 0).pid
    rank(hosts, 1).kill()
    run.until(lambda: run.said("resuming from"))
    assert rank(hosts, 0).pid != first
    run.more_steps(2)

    hosts.far.kill()
    code, out, errors = run.end()
    assert code == 0, out + errors
    print(out, errors, run.log())

    assert nothing_left(hosts) == []
    summary = json.loads((output / "summary.json").read_text())
    assert summary["after"]["low"] > summary["before"]["high"]
    in_process(tmp_path / "alone", steps)
    terms = Terms(steps, 16, 16, exact=False)
    assert differences(read(output), read(tmp_path / "alone"), terms) == []
    log = (output / "logs" / "server.log").read_text()
    assert hosts.far.address in log
    assert hosts.near.address in log


def test_a_stopped_run_and_a_killed_launcher_leave_nothing_on_any_host(hosts: Hosts) -> None:
    output = hosts.near_only / "stops"
    run = Run(hosts, output, "train.checkpoint_every=1", "eval.problems=4")
    run.until(lambda: server(hosts.far) or server(hosts.near))
    run.process.send_signal(signal.SIGTERM)
    code, out, errors = run.end()
    assert (code, "stopped by SIGTERM" in errors) == (143, True), out + errors
    assert "--resume" in out
    assert nothing_left(hosts) == []

    run = Run(hosts, output, "train.checkpoint_every=1", "eval.problems=4")
    run.until(lambda: server(hosts.far) or server(hosts.near))
    run.process.kill()
    run.end()
    assert nothing_left(hosts) == []


def test_a_trainer_over_two_hosts_computes_what_one_host_computes_and_is_started_again_so_often(
    hosts: Hosts, tmp_path: Path
) -> None:
    small = (*IN_PROCESS, "train.processes=2", "train.checkpoint_every=1", "rollout.max_tokens=8")
    settings = [*small, "train.steps=4", "rollout.prompts_per_step=4", "train.max_restarts=1"]
    over_both = [*settings, "cluster.nodes=2"]
    whole = Run(hosts, tmp_path / "whole", *settings, "cluster.nodes=1")
    code, out, errors = whole.end()
    assert (code, errors) == (0, ""), out
    assert f"trainer on {hosts.near.address}\n" in out

    run = Run(hosts, tmp_path / "both", *over_both)
    run.until(lambda: run.said("step 3: sampling"))  # step 1's checkpoint is written beside the training
    assert {hosts.near.address, hosts.far.address} == {address_of(hosts, number) for number in (0, 1)}
    rank(hosts, 1).kill()
    code, out, errors = run.end()
    assert code == 0, out + errors
    assert "All start again, from the last checkpoint (1 of 1)" in errors
    assert "resuming from step-00000" in run.log()
    a, b = (load_file(checkpoints(folder)[-1][1] / "model.safetensors") for folder in (whole.output, run.output))
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-6
    assert len(read(run.output).metrics) == 4

    run = Run(hosts, tmp_path / "again", *over_both)
    for times in (1, 2):
        run.until(lambda times=times: run.said("step 1: sampling", times))
        rank(hosts, 0).kill()
    code, out, errors = run.end()
    assert code == 1, out + errors
    assert f"trainer process 0 on {address_of_bundle(out)} ended with -9 (started 2 times" in errors
    assert nothing_left(hosts) == []


def address_of(hosts: Hosts, number: int) -> str:
    pid = rank(hosts, number).pid
    return next(host.address for host in (hosts.near, hosts.far) if pid in [one.pid for one in host.processes()])


def address_of_bundle(out: str) -> str:
    """Where the leader was."""
    found = re.search(r"trainer on ([\d.]+)", out)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["train.processes=9", "cluster.room_timeout=3"],
            ["no room for this run", "asked for 1 x (9 CPU) for the trainer", "{near} with 3 CPU; {far} with 1 CPU"],
        ),
        (["train.processes=2", "cluster.nodes=2"], ["{far}", "does not see the run's folder", "Give an --output"]),
        (["model.path={hidden}", "rollout.engine=vllm"], ["{far}, where a server is to run, has no {hidden}"]),
        (["cluster.address={nearest}:9"], ["{nearest}:9 cannot be used from here", "ray start --head"]),
    ],
)
def test_what_the_cluster_cannot_do_is_one_message_before_anything_is_loaded(
    hosts: Hosts, tiny_model: Path, overrides: list[str], messages: list[str]
) -> None:
    hidden = hosts.near_only / "model"
    if not hidden.exists():
        shutil.copytree(tiny_model, hidden)
    words = {"near": hosts.near.address, "far": hosts.far.address, "hidden": hidden, "nearest": hosts.near.address}
    output = hosts.near_only / "refused"
    run = Run(hosts, output, *IN_PROCESS, *(one.format(**words) for one in overrides))
    code, out, errors = run.end()
    assert code == 2, out + errors
    assert errors.startswith("error: ")
    for message in messages:
        assert message.format(**words) in errors
    assert "Traceback" not in errors
    assert not (output / "recipe.yaml").exists()


def test_a_host_that_is_no_node_of_the_cluster_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    hosts.far.kill()
    line = [*PROGRAM, "run", "tiny_arithmetic_cpu", "--set", f"cluster.address={hosts.address}"]
    # Ray looks for a node among the processes.
    process = hosts.run([*OWN_PROCESSES, *line, "--output", str(tmp_path / "out")], hosts.far)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 2
    assert "of which this machine is a node" in errors
    assert "Traceback" not in errors
