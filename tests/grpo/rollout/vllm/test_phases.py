"""What a server that starts says of itself, by its log."""

from __future__ import annotations

import asyncio

import pytest

from grpo.rollout.vllm import phases
from grpo.rollout.vllm.phases import phase, said_phases


@pytest.mark.parametrize(
    ("log", "doing"),
    [
        ("", "importing vLLM"),
        ("Triton is installed, but doesn't include CPU backend.", "importing vLLM"),
        ("non-default args: {'port': 1}\n Starting to load model /m...", "loading the weights"),
        ("Starting to load model\nLoading weights took 0.07 seconds\n", "preparing the weights"),
        ("Loading weights took 1 s\nCPU KV cache size: 40,960 tokens\ninit engine (profile, create", "opening the API"),
        ("Application startup complete.\nnon-default args: {} of the next start", "reading the model's configuration"),
    ],
)
def test_the_phase_is_that_of_the_last_sign(log, doing):
    assert phase(log) == doing


def test_each_phase_is_said_once_and_an_old_log_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "POLL_SECONDS", 0.001)
    log, said = tmp_path / "server.log", []
    log.write_text("Application startup complete\n")

    async def start() -> None:
        async with said_phases(tmp_path, said.append):
            for line in (
                "non-default args",
                "something else",
                "Starting to load model",
                "Application startup complete",
            ):
                with log.open("a") as file:
                    file.write(line + "\n")
                n = len(said)
                for _ in range(2000):
                    await asyncio.sleep(0.001)
                    if len(said) > n or line == "something else":
                        break

    asyncio.run(start())
    assert said == ["reading the model's configuration", "loading the weights", "ready"]
