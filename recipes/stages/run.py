"""Runs a chain: each stage as a command of its own, in the order that their inputs ask for.

    OUT/chain.yaml              the chain as it was asked for
        stages/NAME.yaml        the recipe of the stage, with the models and the data of others in place
              /NAME.json        its identity, written when it begins
              /NAME/            its run directory; stage.json, written last, says that it is finished
        summary.json            the stages in order, at the end; report.html beside it

A stage is finished, begun, or not begun. A chain that is resumed passes over the first, goes on with the second.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from grpo.record.atomic import write_atomic
from recipes.errors import FAILED, Stopped
from recipes.jobs.run_dir import locked
from recipes.schema.chain import Chain, Stage, stage_recipe
from recipes.schema.load import AnyRecipe, save_recipe
from recipes.schema.sample import SampleRecipe
from recipes.stages.artifact import Artifact, StageError, finish, read_artifact
from recipes.stages.check import check, in_words
from recipes.stages.identity import identities
from recipes.stages.summary import write_summary

PR_SET_PDEATHSIG = 1


def run_chain(chain: Chain, output: Path, resume: bool, overrides: Sequence[str], console: Console) -> int:
    """Run what is not finished. Returns the exit code, of the stage that did not end well, or 0.

    Raises InputError before anything starts: a stage that cannot work, or that was finished with other settings.
    """
    _check_place(output, resume)
    names = identities(chain)
    done, begun = _found(chain, output, names)
    _say(console, in_words(chain, check(chain), done, begun))
    with locked(output / ".lock", f"--output {output}"):
        write_atomic(output / "chain.yaml", _as_yaml(chain))
        for number, stage in enumerate(chain.stages, 1):
            if stage.name in done:
                continue
            _say(console, f"\nstage {number} of {len(chain.stages)}: {stage.name} ({stage.kind})")
            code = _run(chain, stage, output, names[stage.name], done)
            if code:
                _say(
                    console,
                    f"\nstage {stage.name} ended with exit code {code}. Go on with\n"
                    + _command(chain, output, overrides),
                )
                return code
        write_summary(output, console)
    return 0


def _check_place(output: Path, resume: bool) -> None:
    if resume and not (output / "chain.yaml").is_file():
        raise StageError(f"--resume: {output} holds no chain; expected --output with the directory of one")
    if not resume and output.exists() and any(output.glob("[!.]*")):
        raise StageError(f"--output {output} is not empty; add --resume to go on with that chain, or name another")


def _found(chain: Chain, output: Path, names: dict[str, str]) -> tuple[dict[str, Artifact], set[str]]:
    """The stages that are finished, and those that have begun. Raises StageError if any is of other settings."""
    done: dict[str, Artifact] = {}
    begun: set[str] = set()
    stale = []
    for stage in chain.stages:
        mark = output / "stages" / f"{stage.name}.json"
        if not mark.is_file():
            continue
        if json.loads(mark.read_text(encoding="utf-8")).get("identity") != names[stage.name]:
            stale.append(stage.name)
        elif artifact := read_artifact(output / "stages" / stage.name):
            done[stage.name] = artifact
        else:
            begun.add(stage.name)
    if stale:
        folders = " ".join(str(output / "stages" / f"{name}*") for name in stale)
        raise StageError(
            f"--resume: {output}: stage{'s' * (len(stale) > 1)} {', '.join(stale)} ran with other settings or other "
            f"inputs than the chain has now. Give the RECIPE and --set of the start; or delete {folders} to run "
            "them again; or name another --output"
        )
    return done, begun


def _run(chain: Chain, stage: Stage, output: Path, identity: str, done: dict[str, Artifact]) -> int:
    folder = output / "stages" / stage.name
    models = {name: output / "stages" / name / (one.model or "") for name, one in done.items()}
    data = {name: output / "stages" / name / (one.data or "") for name, one in done.items()}
    recipe = stage_recipe(stage, stage.resolved(models, data))
    file = folder.with_name(f"{stage.name}.yaml")
    save_recipe(recipe, file)
    write_atomic(folder.with_name(f"{stage.name}.json"), json.dumps({"identity": identity}))
    if not (folder / "summary.json").is_file():
        if _of_trl(recipe) and folder.exists():  # which keeps nothing to go on from
            shutil.rmtree(folder)
        resume = ["--resume"] if (folder / "recipe.yaml").is_file() else []
        if code := _zero(["run", str(file), "--output", str(folder), *resume]):
            return code
    done[stage.name] = finish(folder, identity, stage.kind, recipe)
    return 0


def _of_trl(recipe: AnyRecipe) -> bool:
    return not isinstance(recipe, SampleRecipe) and recipe.train.backend == "trl"


def _zero(arguments: Sequence[str]) -> int:
    """The command in a process of its own: memory, threads and ranks are the stage's alone. It goes when we do."""
    # -P: a file here of the name of a package of ours is not it.
    program = [sys.executable, "-P", "-c", "from recipes.command.main import main; main()", *arguments]
    with subprocess.Popen(program, preexec_fn=_goes_with_us) as process:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt as stop:  # once, see recipes/errors.py; a terminal's Ctrl-C has reached it, too
                number = stop.exit_code - 128 if isinstance(stop, Stopped) else signal.SIGINT
                if number != signal.SIGINT or not os.isatty(0):
                    process.send_signal(number)
    return FAILED if code < 0 else code


def _goes_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _command(chain: Chain, output: Path, overrides: Sequence[str]) -> str:
    settings = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["zero", "run", chain.source, *settings, "--output", str(output), "--resume"])


def _as_yaml(chain: Chain) -> str:
    stages = {stage.name: dict(stage.settings) for stage in chain.stages}
    return yaml.safe_dump({"stages": stages}, sort_keys=False, allow_unicode=True, width=120)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
