"""What our side of vLLM's transfer engines does, with a stand-in for the engine: they themselves need GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo.rollout.sync import cuda


@pytest.mark.parametrize("keep", [False, True], ids=["live", "kept"])
def test_weights_are_sent_from_the_trainers_gpu_though_a_thread_of_its_own_sends_them(
    monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    entered: list[torch.device] = []  # those that are current
    seen: list[tuple[str, torch.device]] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield
        entered.pop()

    def trainer_init(_: Any, *, client: Any, source: cuda.MappingSource) -> Any:
        seen.append(("init", entered[-1]))

        def send_weights() -> None:
            assert [name for name, tensor in source if tensor.device == source.device] == ["a"]
            seen.append(("send", entered[-1]))

        return SimpleNamespace(send_weights=send_weights, shutdown=lambda: None)

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(cuda.WeightTransferTrainerFactory, "trainer_init", trainer_init)
    trainers = torch.device("meta")  # stands for cuda:1: any device that is not where a thread starts
    transfer = cuda.CudaTransfer("ipc", keep=keep)
    if keep:  # a meta tensor has no values to keep
        monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    staged = transfer.stage({"a": torch.ones(3, device=trainers)}, 1)
    control: Any = SimpleNamespace(url="http://127.0.0.1:1")
    asyncio.run(transfer.send(control, staged))
    assert seen == [("init", trainers), ("send", trainers)]
