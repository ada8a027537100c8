"""Whole runs through the real vLLM server on CPU."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from datasets import load_dataset

from grpo.policy.checkpoint import checkpoints
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

pytestmark = pytest.mark.server

SMALL = ["rollout.group_size=8", "rollout.prompts_per_step=8", "eval.problems=20", "train.eval_every=0"]


def train(output: Path, *overrides: str) -> list[dict]:
    assert run(load_recipe("tiny_arithmetic_cpu", [*SMALL, *overrides]), "test", output, False) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def vllm_processes() -> list[psutil.Process]:
    """Descendants of this process that belong to vLLM."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or waits to be seen
            with_name = " ".join([process.name(), *process.cmdline()])
            if "VLLM" in with_name or "vllm" in with_name:
                found.append(process)
    return found


def kill_engine_at(output: Path, stages: list[str], killed: list[str]) -> None:
    """At each of these stages of the run, kill -9 the process that holds the model."""
    log, deadline = output / "logs" / "run.log", time.monotonic() + 500
    while len(killed) < len(stages) and time.monotonic() < deadline:
        if log.exists() and stages[len(killed)] in log.read_text():
            max(vllm_processes(), key=lambda process: process.memory_info().rss).kill()
            killed.append(stages[len(killed)])
        time.sleep(0.01)


def test_a_server_killed_in_mid_step_is_replaced_and_the_run_goes_on_with_the_newest_weights(tmp_path):
    output, stages, killed = tmp_path / "out", ["step 2: sampling", "step 3: training"], []
    killer = threading.Thread(target=kill_engine_at, args=(output, stages, killed))
    killer.start()
    lines = train(output, "train.steps=4")
    killer.join()
    assert killed == stages
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["server_restarts"] for line in lines] == [0, 1, 2, 2]
    assert all(line["failed"] == 0 for line in lines)  # every completion asked for came
    # What is served is what was trained, after the restart as before: fp32 log-probs agree to rounding.
    trained = [line for line in lines if line["trained_tokens"]]
    assert {line["server_restarts"] for line in trained} >= {0, 2}, "no step before or after the deaths trained"
    assert all(line["logprob_diff"] < 1e-4 for line in trained)
    rows = load_dataset("parquet", data_files=str(output / "rollouts" / "*.parquet"), split="train")
    assert len(rows) == 4 * 64
    assert all(set(row["versions"]) == {row["step"] - 1} for row in rows)
    assert vllm_processes() == []
    assert [step for step, _ in checkpoints(output)] == [4]
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["engine"], summary["steps"]) == ("vllm", 4)


def test_stale_samples_are_drawn_ahead_and_a_lora_adapter_is_served_alone_with_its_own_scale(tmp_path):
    lines = train(
        tmp_path / "out",
        "train.steps=3",
        "rollout.max_staleness=1",
        "model.lora={r: 8, alpha: 6, rslora: true}",
        "train.learning_rate=2e-3",
    )
    rows = load_dataset("parquet", data_files=str(tmp_path / "out" / "rollouts" / "*.parquet"), split="train")
    lags = {row["step"] - 1 - min(row["versions"]) for row in rows}
    assert lags <= {0, 1}
    assert 1 in lags
    assert lines[0]["logprob_diff"] < 1e-3
    assert (checkpoints(tmp_path / "out")[-1][1] / "adapter_config.json").is_file()
    assert vllm_processes() == []


@pytest.mark.timeout(60)
def test_a_busy_port_is_named_before_anything_starts(tmp_path):
    from grpo.rollout.engine import RolloutError

    async def run_beside_a_listener() -> None:
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener:
            recipe = load_recipe("tiny_arithmetic_cpu", [*SMALL, f"rollout.server.port={port}"])
            with pytest.raises(RolloutError, match=rf"port {port} on 127\.0\.0\.1 is busy"):
                await asyncio.to_thread(run, recipe, "test", tmp_path / "out", False)

    asyncio.run(run_beside_a_listener())
