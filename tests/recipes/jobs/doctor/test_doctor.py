"""What `zero doctor` says of a machine that lacks something, and that its proofs can fail."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from recipes.command.main import main
from recipes.jobs.doctor import machine, proof
from recipes.jobs.doctor.machine import Finding, examine
from tests import forked


def found(what: str) -> Finding:
    return next(finding for finding in examine() if finding.what == what)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "HUB", ("127.0.0.1", 1))


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs that a proof starts."""
    monkeypatch.setattr(proof, "subprocess", SimpleNamespace(run=lambda line, **_: forked.run(line)))


def test_this_machine_lacks_nothing_that_is_needed_and_says_what_it_has() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    for what in ("Python", "torch", "vLLM", "cores", "memory", "/dev/shm", "open files", "file locks here"):
        assert any(line.startswith(what) for line in result.output.splitlines()), what
    assert "give local folders" in result.output  # the hub is not reached


def test_a_package_that_is_absent_or_too_old_is_named_with_the_command_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"trl": "", "peft": "0.1.0"}
    original = machine._version
    monkeypatch.setattr(machine, "_version", lambda name: versions.get(name, original(name)))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "absent  ->  pip install 'trl>=1.16'" in result.output
    assert "0.1.0  ->  pip install 'peft>=0.21'" in result.output


def test_what_is_short_or_shut_is_said_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert "--shm-size" in found("/dev/shm").mend
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    assert found("open files").mend == "ulimit -n 4096"

    def refuse(*_: object) -> socket.socket:
        raise OSError("Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    lo = found("ports of 127.0.0.1")
    assert (lo.found, lo.needed) == ("Cannot assign requested address", True)
    assert "lo" in lo.mend


def test_two_builds_of_vllm_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: "0.32.0")
    assert "one package" in found("vLLM").found


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_packed_against_padded_is_shown_by_runs_and_refuted_by_weights_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = proof._tried("packed", lambda: proof._packed(tmp_path))
    assert shown.ok, shown
    monkeypatch.setattr(proof, "_run", lambda output, *_: output)  # they are there
    file = tmp_path / "padded" / "checkpoints" / "step-000003" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-3 * torch.ones_like(tensors[name])
    save_file(tensors, file)
    assert proof._tried("packed", lambda: proof._packed(tmp_path)).ok is False


@pytest.mark.parametrize(
    ("change", "ok"), [({}, True), ({"logprob_diff": 0.1}, False), ({"weight_version": 1}, False)], ids=str
)
def test_a_transport_is_shown_only_if_every_version_was_served_and_is_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, float], ok: bool
) -> None:
    lines = [{"logprob_diff": 1e-6, "weight_version": step, "seconds_sync": 0.5} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line | change) + "\n" for line in lines))
    monkeypatch.setattr(proof, "_run", lambda *_: tmp_path)
    assert proof._weights(tmp_path, "gloo")[0] is ok


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_a_run_that_fails_is_a_row_with_its_last_words(tmp_path: Path) -> None:
    shown = proof._tried("x", lambda: (True, str(proof._run(tmp_path / "run", "--set", "model.path=/nowhere"))))
    assert shown.ok is False
    assert "exit 2: error: model.path: /nowhere" in shown.found


def test_what_this_machine_cannot_do_is_not_tried_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_tried", lambda what, _: proof.Shown(what, True, ""))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    rows = {shown.what: (shown.ok, shown.found) for shown in proof.prove(Path("unused"))}
    assert rows["weights by nccl"] == (None, "needs two CUDA GPUs")
    assert rows["weights by gloo"] == (True, "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert {shown.ok for shown in proof.prove(Path("unused")) if "processes" in shown.what} == {None}
