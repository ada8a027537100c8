"""One sync of weights into a real vLLM server: its time, and the memory that it takes, by transport.

    python -m benchmarks.sync [--model DIR ...] [--shape NAME ...] [--syncs N] [--json FILE]

Each model, in its own dtype (bf16), and each transport has a server of its own, started as a run starts it, and the
trainer's stream of weights (`ServedWeights`) beside it, without an optimizer. Before every sync all weights change. The
first is not counted: it makes the connections and the first layouts. Of the others: the seconds of the whole sync and
those in which nothing can be sampled (median and range); by how much the memory that a process has to itself (RssAnon,
benchmarks/memory.py) rises at its highest above what it was at rest, in the trainer and in the server's processes
together; and the most that lies in /dev/shm or in the folder of `files`, where one version stays for a server that has
to be started again. Both sides hash every tensor, as always. A measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.memory import GIB, Peak, of_all, private
from benchmarks.random_model import SHAPES, write_model
from benchmarks.turns import QUIET, spread

TRANSPORTS = ("shm", "files", "gloo")


def measure(model: str, transport: str, syncs: int, folder: Path) -> dict[str, Any]:
    """GiB and seconds."""
    import psutil
    import torch
    from transformers import AutoTokenizer

    from grpo.config import ModelSettings, RolloutSettings, ServerSettings
    from grpo.policy.adapters import ServedWeights
    from grpo.policy.load import load_model
    from grpo.policy.policy import Policy
    from grpo.rollout.vllm.engine import VLLMEngine

    settings = ModelSettings(path=model)
    # One of TRANSPORTS, which mypy takes for any text.
    server = ServerSettings(weight_transfer=transport, kv_cache_gib=1.0)  # type: ignore[arg-type]
    rollout = RolloutSettings(max_tokens=64, max_prompt_tokens=64, max_sequences=8, server=server)
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = load_model(settings, torch.device("cpu"))
    weights = ServedWeights(Policy(policy))
    engine = VLLMEngine(model, settings, rollout, tokenizer, folder)

    def files() -> int:
        lying = [path for place in engine._transfer.folders for path in place.rglob("*")]
        return sum(_size(path) for path in lying)

    def servers() -> list[int]:
        return [child.pid for child in psutil.Process().children(recursive=True)]

    @torch.no_grad()
    def change() -> None:
        for parameter in policy.parameters():
            parameter.mul_(1.01)

    async def play() -> list[dict[str, float]]:
        found = []
        await engine.start()
        try:
            for version in range(syncs + 1):
                change()
                pids = servers()
                rest = private(os.getpid()), of_all(pids)
                with (
                    Peak(lambda: private(os.getpid())) as trainer,
                    Peak(lambda: of_all(pids)) as serving,  # noqa: B023  # it ends with the block
                    Peak(files) as lying,
                ):
                    report = await engine.update_weights(weights, version)
                over = {"trainer": trainer.bytes - rest[0], "server": serving.bytes - rest[1]}
                gib = {**over, "files": lying.bytes}
                seconds = {"seconds": report.seconds, "seconds_paused": report.seconds_paused}
                found.append({**seconds, **{name: n / GIB for name, n in gib.items()}})
                await asyncio.sleep(1)  # what was sent is given back
            return found
        finally:
            await engine.close()

    counted = asyncio.run(play())[1:]
    peaks = {name: max(one[name] for one in counted) for name in ("trainer", "server", "files")}
    times = {name: spread([one[name] for one in counted]) for name in ("seconds", "seconds_paused")}
    return {**times, **peaks, "weights": sum(spec.n_bytes for spec in weights.specs) / GIB, "syncs": syncs}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # given back meanwhile
        return 0


HEAD = (
    "weights", "transport", "seconds", "nothing is sampled for", "GiB over rest, trainer", "GiB over rest, server",
    "GiB in files",
)  # fmt: skip


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    made = []
    for one in found["syncs"]:
        times = ["{median:.2f} [{low:.2f}, {high:.2f}]".format(**one[name]) for name in ("seconds", "seconds_paused")]
        memory = [f"{one[name]:.2f}" for name in ("trainer", "server", "files")]
        made.append([f"{one['model']}, {one['weights']:.2f} GiB", one["transport"], *times, *memory])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], metavar="DIR", help="checkpoints")
    parser.add_argument("--shape", nargs="*", default=[], choices=SHAPES, help="of random weights, in bf16")
    parser.add_argument("--transports", nargs="+", default=TRANSPORTS, choices=TRANSPORTS)
    parser.add_argument("--syncs", type=int, default=5, help="that are counted")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not (arguments.model or arguments.shape):
        parser.error("expected --model or --shape")
    os.environ.update(QUIET)
    found = []
    with tempfile.TemporaryDirectory() as name:
        models = {Path(model).name: model for model in arguments.model}
        for shape in arguments.shape:
            models[shape] = f"{name}/{shape}"
            write_model(shape, Path(models[shape]))
        for model, place in models.items():
            for transport in arguments.transports:
                folder = Path(name) / f"{model}-{transport}"
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    one = alone.submit(measure, place, transport, arguments.syncs, folder).result()
                found.append({"model": model, "transport": transport, **one})
                print(" | ".join(rows({"syncs": found[-1:]})[0]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"syncs": found}, indent=2))


if __name__ == "__main__":
    main()
