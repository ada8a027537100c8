"""`zero eval` with its own vLLM server on CPU: two starts, each about 40 s on two free cores."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from eval.problems.generated import generate
from eval.store import LINES, read_generations
from grpo.config import ModelSettings
from grpo.policy.load import load_tokenizer
from grpo.prompts import render
from grpo.rollout.local import TransformersEngine
from grpo.types import RolloutRequest, Sampling
from recipes.command.main import main
from recipes.schema.load import TINY
from recipes.tasks import TaskRow

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
TEMPLATE = "{question}=<think>"  # what the built-in model was trained on
MAX_TOKENS = 48

BENCHMARK = f"""
dataset: problems.jsonl
columns: {{question: question, answer: answer, level: level}}
template: "{TEMPLATE}"
instruction: ""
max_tokens: {MAX_TOKENS}
"""


def greedy_in_process(rows: list[dict]) -> dict[str, tuple[str, int, str]]:
    """Question -> text, tokens and finish reason, from the engine that training uses without a server."""
    settings = ModelSettings(path=str(TINY), dtype="float32")
    tokenizer = load_tokenizer(settings)
    prompts, _ = render([TaskRow(row["id"], row["question"], row["answer"]) for row in rows], tokenizer, TEMPLATE)
    engine = TransformersEngine(settings, tokenizer, 64, torch.device("cpu"))

    async def run() -> dict[str, tuple[str, int, str]]:
        await engine.start()
        found = {}
        sampling = Sampling(MAX_TOKENS, temperature=0.0)
        async for index, group in engine.generate([RolloutRequest(prompt, 1, sampling) for prompt in prompts]):
            (one,) = group.completions
            text = group.prompt.prefill + one.text
            found[rows[index]["question"]] = (text, len(one.token_ids), one.finish_reason)
        await engine.close()
        return found

    return asyncio.run(run())


def tree_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_stopped_by_ctrl_c_and_resumed_its_answers_are_those_of_the_in_process_engine_and_no_process_is_left(
    tmp_path: Path,
) -> None:
    rows = generate("arithmetic", "held_out", 120, seed=0, levels=[1, 2, 3, 4])
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "arithmetic4.yaml").write_text(BENCHMARK)
    output = tmp_path / "out"
    line = ["eval", "--model", "tiny", "--benchmark", str(tmp_path / "arithmetic4.yaml"), "--output", str(output)]

    code = "from recipes.command.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *line, "--concurrency", "1"], cwd=ROOT)
    end = time.monotonic() + 400
    while not (output / LINES).exists() or (output / LINES).read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    tree = tree_of(process)
    assert len(tree) >= 2  # the watcher and vLLM
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert psutil.wait_procs(tree, timeout=120)[1] == []
    stored = read_generations(output)
    assert 5 <= len(stored) < 120

    result = CliRunner().invoke(main, [*line, "--resume"])
    assert result.exit_code == 0, result.output
    assert not [one for one in psutil.Process().children(recursive=True) if "vllm" in " ".join(one.cmdline())]
    generations = read_generations(output)
    assert len(generations) == 120
    assert [one for one in generations if one.problem_id in {row.problem_id for row in stored}] == stored
    served = {one.question: (one.completion, one.tokens, one.finish_reason) for one in generations}
    assert served == greedy_in_process(rows)
    entry = json.loads((output / "results.json").read_text())["arithmetic4"]
    assert entry["failed"] == {}
    assert entry["accuracy"]["value"] > 0.1  # it was trained to add
    assert json.loads((output / "evaluation.json").read_text())["dtype"] == "float32"
