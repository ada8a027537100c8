"""`zero doctor --deep`: what this machine is shown to do, by doing it with the built-in model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 3
SMALL, TWO_AND_TWO = "tiny_arithmetic_cpu", "tiny_arithmetic_2x2_cpu"
SHORT = ["--set", f"train.steps={STEPS}", "--set", "eval.problems=20"]
SAMPLE = ["--set", "rollout.prompts_per_step=4", "--set", "rollout.group_size=4"]
NOISE = 1e-3  # nats between the log-probs of server and trainer, in fp32; of GPUs with TF32, too
CLOSE = 1e-5  # between the weights of several processes and of one
# A parameter without gradient but for rounding would step by the rounding's sign.
SMOOTH = ["--set", "train.optimizer={eps: 0.01}"]


@dataclass(frozen=True, slots=True)
class Shown:
    """`ok`: True, False, or None: it was not tried, and `found` says why."""

    what: str
    ok: bool | None
    found: str


class ProofError(RuntimeError):
    """A run failed. The message is the last that it said, and where the rest is."""


def prove(folder: Path) -> Iterator[Shown]:
    """One after the other, each by runs of its own in `folder`, which the failed ones stay in."""
    import torch

    gpus = torch.cuda.device_count()
    processes = max(2, gpus)
    if gpus == 1:
        yield Shown("several trainer processes", None, "needs two GPUs, or none")
    else:
        yield _tried(
            f"{processes} trainer processes (FSDP2) against one",
            lambda: _processes(folder, processes, "cuda" if gpus else "cpu"),
        )
    yield _tried("packed attention against padded", lambda: _packed(folder))
    for name in ("shm", "files", "gloo", "ipc", "nccl"):
        if reason := _missing(name, gpus):
            yield Shown(f"weights by {name}", None, reason)
        else:
            # mypy knows no lambda with a default.
            yield _tried(f"weights by {name}", lambda name=name: _weights(folder, name))  # type: ignore[misc]
    if gpus == 1:
        yield Shown("a run on all devices", None, "there is one, which the runs above are on")
    elif gpus:
        yield _tried(f"a run on {gpus} GPUs", lambda: _together(folder, SMALL, "--set", f"train.processes={gpus // 2}"))
    else:
        yield _tried("2 trainer processes and 2 servers", lambda: _together(folder, TWO_AND_TWO))


def _tried(what: str, prove_it: Callable[[], tuple[bool, str]]) -> Shown:
    try:
        ok, found = prove_it()
    except ProofError as error:
        return Shown(what, False, str(error))
    return Shown(what, ok, found)


def _missing(transport: str, gpus: int) -> str:
    if transport == "ipc" and gpus != 1:
        return "is for one GPU that trainer and server share" if gpus else "needs a CUDA GPU"
    if transport == "nccl" and gpus < 2:
        return "needs two CUDA GPUs"
    return ""


def _weights(folder: Path, transport: str) -> tuple[bool, str]:
    """Every version is hashed by both sides; that it is what was trained, its log-probs say."""
    run = _run(folder / transport, *SAMPLE, "--set", f"rollout.server.weight_transfer={transport}")
    lines = _lines(run)
    difference = max(line["logprob_diff"] for line in lines)
    served = [int(line["weight_version"]) for line in lines] == list(range(1, STEPS + 1))
    seconds = sum(line["seconds_sync"] for line in lines) / STEPS
    found = f"{STEPS + 1} versions; log-probs differ by {difference:.1e} nats; {seconds:.2f} s a sync"
    return served and difference < NOISE, found


def _processes(folder: Path, processes: int, device: str) -> tuple[bool, str]:
    in_process = ["--set", "rollout.engine=transformers", *SAMPLE, *SMOOTH]
    one = _weights_of(_run(folder / "one", *in_process))
    several = _weights_of(_run(folder / "several", *in_process, "--set", f"train.processes={processes}"))
    difference = max((one[name] - several[name]).abs().max().item() for name in one)
    return difference < CLOSE, f"on {device}, weights after {STEPS} steps differ by {difference:.1e}"


def _packed(folder: Path) -> tuple[bool, str]:
    in_process = ["--set", "rollout.engine=transformers", *SAMPLE, *SMOOTH]
    packed = _weights_of(_run(folder / "packed", *in_process))
    padded = _weights_of(_run(folder / "padded", *in_process, "--set", "train.packing=false"))
    difference = max((packed[name] - padded[name]).abs().max().item() for name in packed)
    return difference < CLOSE, f"weights after {STEPS} steps differ by {difference:.1e}"


def _together(folder: Path, recipe: str, *sizes: str) -> tuple[bool, str]:
    """Servers take the GPUs that the trainer leaves."""
    lines = _lines(_run(folder / "together", *SAMPLE, *sizes, "--set", "rollout.max_staleness=1", recipe=recipe))
    difference = max(line["logprob_diff"] for line in lines if not line["stale"])
    return difference < NOISE, f"{STEPS} steps; log-probs differ by {difference:.1e} nats"


def _run(output: Path, *arguments: str, recipe: str = SMALL) -> Path:
    program = ["-P", "-c", "from recipes.command.main import main; main()", "run", recipe, *SHORT, *arguments]
    line: Sequence[str] = [sys.executable, *program, "--output", str(output)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ProofError(f"exit {done.returncode}: {said[-1] if said else 'without a word'}; see {output / 'logs'}")
    return output


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _weights_of(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors")
