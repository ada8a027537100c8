"""Which way weights go: what `auto` chooses, and that what cannot work is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grpo.config import RolloutSettings, ServerSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.sync.choice import transfer_for
from grpo.rollout.sync.group import is_this_machine
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.vllm.server import place

HERE, ELSEWHERE = "http://127.0.0.1:8000", "http://192.0.2.7:8000"  # RFC 5737: nobody's


@pytest.mark.parametrize(
    ("n_gpus", "settings", "chosen"),
    [
        (0, {}, "shm"),
        (0, {"urls": [HERE]}, "shm"),
        (0, {"urls": [HERE, ELSEWHERE]}, "gloo"),
        (1, {}, "ipc"),
        (1, {"urls": [ELSEWHERE]}, "nccl"),
        (2, {}, "nccl"),
        (8, {"gpus": [0]}, "ipc"),
        (0, {"weight_transfer": "files", "urls": [ELSEWHERE]}, "files"),
        (1, {"weight_transfer": "shm"}, "shm"),
        (2, {"weight_transfer": "gloo"}, "gloo"),
    ],
)
def test_auto_takes_the_shortest_way_that_reaches_every_server(monkeypatch, n_gpus, settings, chosen) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert place(ServerSettings(**settings)).backend == chosen


@pytest.mark.parametrize(
    ("n_gpus", "settings", "reason"),
    [
        (0, {"weight_transfer": "nccl"}, "nccl needs CUDA GPUs, and this machine has none; use shm, files or gloo"),
        (0, {"weight_transfer": "ipc"}, "ipc needs CUDA GPUs"),
        (0, {"weight_transfer": "shm", "urls": [ELSEWHERE]}, f"reaches this machine only, and {ELSEWHERE} is on"),
        (1, {"weight_transfer": "ipc", "urls": [ELSEWHERE]}, f"reaches this machine only, and {ELSEWHERE} is on"),
        (2, {"weight_transfer": "ipc"}, "ipc is for one server on the trainer's own GPU"),
        (2, {"weight_transfer": "ipc", "gpus": [0, 1]}, "ipc is for one server on the trainer's own GPU"),
        (1, {"weight_transfer": "ipc", "replicas": 2, "gpus": [0]}, "ipc is for one server|must be a multiple of 2"),
        (1, {"weight_transfer": "nccl"}, "nccl cannot connect two processes on one GPU"),
        (2, {"weight_transfer": "nccl", "gpus": [0]}, "nccl cannot connect two processes on one GPU"),
    ],
)
def test_a_way_that_cannot_work_is_refused_with_the_reason(monkeypatch, n_gpus, settings, reason) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    with pytest.raises(RolloutError, match=reason):
        place(ServerSettings(**settings))


def test_a_url_is_of_this_machine_only_if_its_address_is() -> None:
    assert is_this_machine("http://localhost:8000")
    assert not is_this_machine(ELSEWHERE)
    assert not is_this_machine("http://no-such-host.invalid:8000")


def test_files_go_to_the_folder_that_the_recipe_names_or_into_the_run(tmp_path: Path) -> None:
    left = tmp_path / "run" / "weights" / "weights-7.bin"  # by a run that was killed
    left.parent.mkdir(parents=True)
    left.touch()
    for weight_dir, parent in ((None, tmp_path / "run"), (str(tmp_path / "shared"), tmp_path / "shared")):
        rollout = RolloutSettings(server=ServerSettings(weight_transfer="files", weight_dir=weight_dir))
        transfer = transfer_for("files", rollout, tmp_path / "run")
        staged = transfer.stage(TensorStream({"a": torch.ones(3)}), 1)
        (folder,) = transfer.folders
        assert folder.parent == parent
        assert len(list(folder.iterdir())) == 1
        assert [tensor.tolist() for _, tensor in staged.stream] == [[1.0] * 3]
        transfer.close()
        assert not folder.exists()
