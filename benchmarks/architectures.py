"""Is what is served what is trained, for each kind of model? Built tiny and random, trained for three steps.

    python -m benchmarks.architectures FOLDER [--server] [--only NAME,NAME | --others] [--dtype float32]
    python -m benchmarks.architectures FOLDER --docs

Every architecture of shapes.py is made with random weights in FOLDER/NAME/model and trained in a process of its own, by
the in-process engine, or with --server by vLLM's. What its proof at the start says (grpo/policy/proof.py) is printed
as a table: served as trained, to so many nats of an allowed so many; or refused, and why. What is done in FOLDER is
not done again. With --docs the table in docs/architectures.md is written from both.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.families import MOST_PARAMETERS, SHAPES, config_of, others
from benchmarks.performance import DOCS, replaced, table

SETTINGS = (
    "train.steps=3",
    "rollout.max_tokens=8",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "eval.problems=4",
    "train.learning_rate=1e-3",
)
FOLLOWS = re.compile(
    r"EngineDead|See root cause|APIServer|Exception ignored|No module named 'ray|EngineCore encountered"
)
LONGEST = 220  # characters of a reason in the table


def build(kind: str, folder: Path, dtype: str) -> None:
    """A random model of this kind, with the tokenizer of the built-in one. Raises ValueError if it is not small."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "recipes" / "tiny" / "model")
    config = config_of(kind, {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1})
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"its configuration cannot be shrunk by names: {size:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():  # what starts as ones and zeros would hide what is done to it
            parameter += 0.02 * torch.randn(parameter.shape).to(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def outcome(kind: str, folder: Path, server: bool, dtype: str) -> dict[str, Any]:
    """The `proof` of its run, or {"refused", "not served", "broke" or "unbuilt": last words}; kept in FOLDER."""
    output = folder / kind / ("server" if server else "in-process")
    done = output.with_suffix(".json")
    if done.is_file():
        return json.loads(done.read_text())
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    if _in_child(log, build, kind, folder / kind / "model", dtype, unless=folder / kind / "model" / "config.json"):
        found: dict[str, Any] = {"unbuilt": _last_words(log)}
    elif code := _in_child(log, train, kind, folder, server, dtype):
        server_log = output / "logs" / "server.log"
        how = "refused" if code == 2 else "not served" if server_log.is_file() else "broke"
        found = {how: _last_words(server_log if how == "not served" else log)}
    else:
        found = json.loads((output / "summary.json").read_text())["proof"]
    done.write_text(json.dumps(found, indent=1))
    return found


def _in_child(log: Path, work: Callable[..., object], *args: Any, unless: Path | None = None) -> int:
    """The exit code of a fork of this process, which has imported everything already; its words go to `log`."""
    if unless is not None and unless.is_file():
        return 0
    if not (child := os.fork()):
        code = 1
        try:
            with log.open("w") as words:
                os.dup2(words.fileno(), 1)
                os.dup2(words.fileno(), 2)
            work(*args)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # whatever it is, the fork must not go on as its parent would
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"Error\b.*: |error: ", line) and not FOLLOWS.search(line)]
    return (errors or lines or ["it ended without a word"])[-1]


def train(kind: str, folder: Path, server: bool, dtype: str) -> None:
    from recipes.command.main import main

    output = folder / kind / ("server" if server else "in-process")
    engine = "vllm" if server else "transformers"
    settings = (*SETTINGS, f"model.path={folder / kind / 'model'}", f"model.dtype={dtype}", f"rollout.engine={engine}")
    sys.argv = ["zero", "run", "tiny_arithmetic_cpu", "--output", str(output)]
    sys.argv += [part for setting in settings for part in ("--set", setting)]
    shutil.rmtree(output, ignore_errors=True)  # of a run that was cut off
    main()


def row(kind: str, found: Mapping[str, Any]) -> list[str]:
    if words := next(
        (f"{how}: {found[how]}" for how in ("refused", "not served", "broke", "unbuilt") if how in found), ""
    ):
        return [kind, "", "", re.sub(r"error: | at http://\S+", "", words)]
    forward, served = found["forward"], found["served"]
    rows = "padded" if forward["padded"] else "packed"
    return [kind, forward["head"], rows, f"{served['perturbed_difference']:.1e} of {served['perturbed_bound']:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--only", help="NAME,NAME ...")
    parser.add_argument("--others", action="store_true", help="kinds of transformers that nobody wrote a shape for")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.docs:
        write_docs(folder)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork cannot use the threads that its parent has started
    import recipes.jobs.train  # noqa: F401  # once, for all children

    kinds = options.only.split(",") if options.only else others() if options.others else list(SHAPES)
    for kind in kinds:
        print(*row(kind, outcome(kind, folder, options.server, options.dtype)), sep=" | ", flush=True)


def write_docs(folder: Path) -> None:
    """The tables of what was run in FOLDER."""
    rows = []
    for kind in SHAPES:
        found = [_kept(folder, kind, engine) for engine in ("in-process", "server")]
        if found[0] is not None:
            words = row(kind, found[1])[3] if found[1] else "not run"
            rows.append([*(f"{cell}"[:LONGEST] for cell in row(kind, found[0])), words[:LONGEST]])
    head = ["architecture", "head", "rows", "in process, nats", "vLLM server, nats"]
    page = DOCS / "architectures.md"
    blocks = {"architectures": table(head, rows), "other-architectures": table(["outcome", "kinds"], _outcomes(folder))}
    page.write_text(replaced(page.read_text(), blocks))


def _kept(folder: Path, kind: str, engine: str) -> dict[str, Any] | None:
    file = folder / kind / f"{engine}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _outcomes(folder: Path) -> list[list[str]]:
    """Of the kinds without a shape, by what became of them in process."""
    by_outcome: dict[str, list[str]] = {
        "trained, packed rows": [],
        "trained, padded rows": [],
        "refused: not causal": [],
        "refused: its forward needs more than tokens, or fails": [],
        "refused otherwise": [],
        "broke": [],
        "not built: its sizes do not shrink by their names": [],
    }
    trained, padded, both, fails, otherwise, broke, unbuilt = by_outcome.values()
    for kind in others():
        if (found := _kept(folder, kind, "in-process")) is None:
            continue
        if "forward" in found:
            (padded if found["forward"]["padded"] else trained).append(kind)
        elif why := found.get("refused", ""):
            (both if "stands behind it" in why else fails if "the forward of" in why else otherwise).append(kind)
        else:
            (broke if "broke" in found else unbuilt).append(kind)
    return [[outcome, ", ".join(kinds)] for outcome, kinds in by_outcome.items() if kinds]


if __name__ == "__main__":
    main()
