"""Our evaluation beside lm-evaluation-harness: the same prompts, sampling and server, alternately.

    python -m benchmarks.vs_lm_eval --model DIR [--limit-gsm8k 200] [--limit-math500 100] [--max-tokens 256]
        [--rounds 1] [--data-dir DIR] [--lm-eval PATH] [--json FILE]

One vLLM server, started as `zero eval` starts its own, serves both sides; each is a command of its own:

    ours     zero eval --base-url URL --benchmark FILE.yaml ...
    theirs   lm_eval run --model local-completions --tasks NAME ...

Both read the same rows and send the same body, greedy: theirs the rendered prompt as a text, ours its token ids, which
are checked to be what the server makes of the text. As many requests are in flight on both sides. Before the first
round both answer a few problems to warm up; before each run the server forgets the prompts that it has seen; the side
that goes first changes from round to round.

Time is that of the whole command, from its start to its end; the part in which it samples is also printed. Our verifier
grades both sides. Prompts that leave less than --max-tokens of the model's context are left out, on both sides.

lm_eval is no dependency of this project. Give it an environment of its own:

    python -m venv lm && lm/bin/pip install 'lm_eval[api]', then --lm-eval lm/bin/lm_eval
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from eval.ask.client import Served, find_served, request
from eval.ask.run import RESULTS, Work, prepare
from eval.ask.server import OwnServer
from eval.grade import graded
from eval.page.table import estimate
from eval.problems.benchmarks import benchmark, load_problems
from eval.problems.custom import ASKED, GRADED
from eval.problems.data import DataError
from eval.problems.protocol import grader
from eval.stats.stats import avg_at_k
from eval.store import read_generations
from eval.types import Generation
from grpo.rollout.engine import RolloutError
from grpo.types import Sampling
from recipes.jobs.eval_model import EvalError, OwnModel, own_model, own_server
from recipes.jobs.evaluate import ASKED as ASKED_FILE

LIMITS = {"gsm8k": 200, "math500": 100, "arithmetic": 0}  # problems asked of each; 0: not asked
WARM_UP = 2  # problems of each benchmark
TAIL = 2000  # characters of a failed command's output that are shown
SIDES = ("ours", "lm_eval")


class RunError(RuntimeError):
    """One side failed, or was not asked what the other was."""


class Run(NamedTuple):
    """One side's answers, in the order of the problems. Seconds of the whole command, and of sampling alone."""

    seconds: float
    sampling: float
    generations: dict[str, list[Generation]]


@dataclass(frozen=True)
class Setup:
    """What both sides are given."""

    model: OwnModel
    works: Sequence[Work]
    served: Served
    url: str
    in_flight: int
    lm_eval: str
    folder: Path


# -- What is asked ------------------------------------------------------------------------------------------------


def prepared(model: OwnModel, limits: dict[str, int], max_tokens: int, data_dir: Path | None) -> list[Work]:
    """The benchmarks, each under a name that says how many of its problems fit into the model's context."""
    from grpo.policy.load import max_positions

    room = max_positions(model.settings) - max_tokens
    works = []
    for name in (name for name, limit in limits.items() if limit):
        chosen = benchmark(name).override(max_tokens=max_tokens, samples=1, temperature=0.0, top_p=1.0)
        work = prepare(chosen, load_problems(chosen, data_dir, limits[name]).problems, model.tokenizer)
        fits = [len(prompt.token_ids) <= room for prompt in work.prompts]
        if not all(fits):
            print(f"{name}: {fits.count(False)} of {len(fits)} prompts leave less than {max_tokens} tokens: left out")
        problems = [problem for problem, fit in zip(work.problems, fits, strict=True) if fit]
        prompts = [prompt for prompt, fit in zip(work.prompts, fits, strict=True) if fit]
        if problems:
            works.append(Work(replace(chosen, name=f"{name}-{len(problems)}"), problems, prompts))
    if not works:
        raise RunError("no prompt fits into the model's context; ask for fewer --max-tokens, or another benchmark")
    return works


def write_inputs(setup: Setup) -> None:
    """NAME.jsonl, which both sides read; NAME.yaml, our benchmark; tasks/NAME.yaml, their task."""
    (setup.folder / "tasks").mkdir()
    for work in setup.works:
        data, protocol = setup.folder / f"{work.name}.jsonl", work.benchmark.protocol
        rows = [
            {**problem.columns, "question": problem.question, "answer": problem.answer, "prompt": prompt.text}
            for problem, prompt in zip(work.problems, work.prompts, strict=True)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ours = {
            "name": work.name,
            "dataset": str(data),
            "columns": {"question": "question", "answer": "answer"},
            **{key: getattr(protocol, key) for key in (*ASKED, *GRADED)},
        }
        (setup.folder / f"{work.name}.yaml").write_text(yaml.safe_dump(ours))
        (setup.folder / "tasks" / f"{work.name}.yaml").write_text(yaml.safe_dump(task(work, data, setup)))


def task(work: Work, data: Path, setup: Setup) -> dict[str, Any]:
    """The task of lm_eval that sends what our client sends."""
    protocol = work.benchmark.protocol
    _, body = request(work.prompts[0], Sampling(protocol.max_tokens, protocol.temperature), setup.served)
    body = {key: value for key, value in body.items() if key not in ("model", "prompt")}
    return {
        "task": work.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {
            **body,
            "until": [],  # nothing but the end of sequence
            "seed": None,  # theirs would be sent otherwise; ours sends none
            "add_special_tokens": adds_special_tokens(work, setup.model),
        },
    }


def adds_special_tokens(work: Work, model: OwnModel) -> bool:
    """Whether the server is to add special tokens to a prompt sent as a text, to get the token ids that we send."""
    texts = [prompt.text for prompt in work.prompts]
    for adds in (False, True):
        ids = model.tokenizer(texts, add_special_tokens=adds)["input_ids"]
        if all(tuple(own) == prompt.token_ids for own, prompt in zip(ids, work.prompts, strict=True)):
            return adds
    raise RunError(f"{work.name}: as texts, the prompts have other token ids; this model cannot be compared so")


# -- The two sides ------------------------------------------------------------------------------------------------


def ours(setup: Setup, folder: Path, limit: int | None = None) -> Run:
    command = [str(Path(sys.executable).with_name("zero")), "eval", "--model", setup.model.settings.path]
    command += ["--base-url", setup.url, "--concurrency", str(setup.in_flight), "--output", str(folder)]
    for work in setup.works:
        command += ["--benchmark", str(setup.folder / f"{work.name}.yaml")]
    seconds, _ = timed(command, limit, setup)
    generations: dict[str, list[Generation]] = {work.name: [] for work in setup.works}
    for generation in read_generations(folder):
        if generation.failure:
            raise RunError(f"ours: {generation.problem_id} failed: {generation.reason}")
        generations[generation.benchmark].append(generation)
    # The one file is written right before sampling, the other right after.
    sampling = (folder / RESULTS).stat().st_mtime - (folder / ASKED_FILE).stat().st_mtime
    return Run(seconds, sampling, generations)


def theirs(setup: Setup, folder: Path, limit: int | None = None) -> Run:
    server = f"model={setup.served.name},base_url={setup.url}/v1/completions,num_concurrent={setup.in_flight}"
    command = [setup.lm_eval, "run", "--model", "local-completions", "--batch_size", "1", "--model_args"]
    command += [f"{server},tokenizer_backend=None,tokenized_requests=False,timeout=3600"]
    command += ["--include_path", str(setup.folder / "tasks"), "--tasks", ",".join(work.name for work in setup.works)]
    command += ["--log_samples", "--output_path", str(folder)]
    seconds, output = timed(command, limit, setup)
    return Run(seconds, requesting(output), {work.name: their_generations(work, folder) for work in setup.works})


def their_generations(work: Work, folder: Path) -> list[Generation]:
    """Their answers, graded by our verifier. Raises RunError if another prompt was sent."""
    grade = grader(work.benchmark.protocol)
    (file,) = folder.rglob(f"samples_{work.name}_*.jsonl")
    samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    found = []
    for sample in samples:
        problem, prompt = work.problems[sample["doc_id"]], work.prompts[sample["doc_id"]]
        if sample["arguments"]["gen_args_0"]["arg_0"] != prompt.text:
            raise RunError(f"lm_eval: {problem.id} was asked as {sample['arguments']}, expected {prompt.text!r}")
        found.append(graded(work.name, problem, 0, prompt.prefill + sample["resps"][0][0], grade))
    return found


def requesting(output: str) -> float:
    """Seconds that lm_eval's bar of requests ran, by its pace: `Requesting API: 100%|#| 300/300 [..., 1.04s/it]`"""
    bars = re.findall(r"Requesting API: 100%.*?(\d+)/\1 \[.*?, *([\d.]+)(it/s|s/it)", output)
    if not bars:
        raise RunError(f"lm_eval: no bar of requests in its output, which ends:\n{output[-TAIL:]}")
    n, pace, unit = bars[-1]
    return int(n) / float(pace) if unit == "it/s" else int(n) * float(pace)


def timed(command: Sequence[str], limit: int | None, setup: Setup) -> tuple[float, str]:
    """Wall seconds of a command, and its output. Raises RunError if it fails."""
    command = [*command, *(["--limit", str(limit)] if limit else [])]
    urllib.request.urlopen(urllib.request.Request(f"{setup.url}/reset_prefix_cache", method="POST"), timeout=60)
    own = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(setup.folder / "cache")}
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RunError(f"{shlex.join(command)} ended with {done.returncode}. Its output ends:\n{done.stdout[-TAIL:]}")
    return seconds, done.stdout


# -- Rounds, and what came of them --------------------------------------------------------------------------------


def play(setup: Setup, rounds: int) -> list[dict[str, Run]]:
    """Side -> its run, of each round."""
    sides = dict(zip(SIDES, (ours, theirs), strict=True))
    for name, side in sides.items():
        print(f"warm-up: {name}", flush=True)
        side(setup, setup.folder / f"warm-up-{name}", WARM_UP)
    played = []
    for number in range(rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        runs = {name: sides[name](setup, setup.folder / f"{number}-{name}") for name in order}
        played.append({name: runs[name] for name in SIDES})
        print(f"\nround {number + 1}, {order[0]} first", flush=True)
        print("\n".join(lines(played[-1])), flush=True)
    return played


def lines(runs: dict[str, Run]) -> list[str]:
    found = [f"  {name:8} {run.seconds:8.1f} s, sampling {run.sampling:8.1f} s" for name, run in runs.items()]
    for name, entry in compared(*runs.values()).items():
        accuracies = ", ".join(f"{side} {estimate(entry[side])}" for side in SIDES)
        found.append(
            f"  {name}: {accuracies}; {entry['texts_differ']} of {entry['completions']} texts differ, "
            f"{entry['verdicts_differ']} verdicts"
        )
    return found


def compared(a: Run, b: Run) -> dict[str, dict[str, Any]]:
    """Benchmark -> accuracies with intervals, and how many completions and verdicts differ."""
    found: dict[str, dict[str, Any]] = {}
    for name in a.generations:
        pairs = list(zip(a.generations[name], b.generations[name], strict=True))
        accuracies = [avg_at_k(run.generations[name]) for run in (a, b)]
        found[name] = {side: value and asdict(value) for side, value in zip(SIDES, accuracies, strict=True)} | {
            "completions": len(pairs),
            "texts_differ": sum(one.completion != other.completion for one, other in pairs),
            "verdicts_differ": sum(one.value != other.value for one, other in pairs),
        }
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def report(setup: Setup, played: Sequence[dict[str, Run]]) -> dict[str, Any]:
    return {
        "model": setup.model.name,
        "in_flight": setup.in_flight,
        "speedup": spread([runs["lm_eval"].seconds / runs["ours"].seconds for runs in played]),
        "sampling_speedup": spread([runs["lm_eval"].sampling / runs["ours"].sampling for runs in played]),
        "rounds": [
            {name: {"seconds": run.seconds, "sampling_seconds": run.sampling} for name, run in runs.items()}
            | {"benchmarks": compared(*runs.values())}
            for runs in played
        ],
    }


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = own_model(arguments.model, arguments.dtype)
    limits = {name: getattr(arguments, f"limit_{name}") for name in LIMITS}
    works = prepared(model, limits, arguments.max_tokens, arguments.data_dir)
    server, sequences = own_server(model.settings, works, folder / "server.log", None)
    in_flight = arguments.in_flight or sequences + sequences // 4 + 1  # as `zero eval` asks a server of its own
    print(f"starting vLLM for {model.name}; {in_flight} requests in flight", flush=True)
    async with OwnServer(server) as own:
        served = await find_served(own.url)
        setup = Setup(model, works, served, own.url, in_flight, arguments.lm_eval, folder)
        write_inputs(setup)
        return report(setup, await asyncio.to_thread(play, setup, arguments.rounds))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint's folder, or tiny")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="of the served weights")
    for name, limit in LIMITS.items():
        parser.add_argument(f"--limit-{name}", type=int, default=limit, metavar="N", help=f"default: {limit}; 0: none")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--in-flight", type=int, metavar="N", help="requests of either side at once")
    shared = Path(os.environ.get("ZERO_DATA_DIR", "../shared/data"))
    parser.add_argument("--data-dir", type=Path, metavar="DIR", default=shared if shared.is_dir() else None)
    parser.add_argument("--lm-eval", default="lm_eval", metavar="PATH", help="its executable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    if not shutil.which(arguments.lm_eval):
        parser.error(
            f"--lm-eval {arguments.lm_eval}: no such executable; install it apart, "
            "python -m venv lm && lm/bin/pip install 'lm_eval[api]', and give --lm-eval lm/bin/lm_eval"
        )
    return arguments


def main() -> None:
    arguments = parsed()
    try:
        with tempfile.TemporaryDirectory(prefix="vs_lm_eval-") as folder:
            result = asyncio.run(measure(arguments, Path(folder)))
    except (RunError, RolloutError, EvalError, DataError) as error:
        sys.exit(f"failed: {error}")
    for name, of in (("speedup", "whole command"), ("sampling_speedup", "sampling alone")):
        values = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**result[name])
        print(f"lm_eval / ours, {of}: {values}, median and range of {arguments.rounds} rounds")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
