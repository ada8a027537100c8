"""`zero eval`. Exit codes: 0 done, 1 a part is missing; others as in errors.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recipes.command.loading import loading
from recipes.errors import InputError, exit_codes
from recipes.hub import give_up_unless_reachable

WHY = {"generations": "which are there", "run": "which has its own model"}
# The options that take some words to explain.
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH_OR_ID",
        help="A model's folder, its hub id, or tiny. With --base-url: the name it is served under, or a folder "
        "whose tokenizer renders the prompts; without it, the only model there.",
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="An OpenAI-compatible server that runs already; repeatable. Its key, if it "
        "takes one, is read from OPENAI_API_KEY.",
    ),
]
Generations = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl",
        help="Grade these instead: `completion`, `answer`, `problem_id` a line, and `benchmark`, `subject`, "
        "`level`, `tokens`, `finish_reason` where known. No model is needed.",
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN_DIR",
        help="Evaluate what a run trained, as its recipe asks, samples and reads; on its held-out problems, or on each "
        "--benchmark.",
    ),
]


def evaluate(
    model: Model = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A built-in benchmark (gsm8k, math500 ...), or a .yaml file; repeatable."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Completions a problem, instead of the protocol's.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a completion.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems of each benchmark.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with BENCHMARK/test.jsonl, in place of the hub.")
    ] = None,
    base_url: BaseUrl = None,
    template: Annotated[
        str | None, typer.Option(help="chat, r1_zero, or a text that contains {question}, instead of the protocol's.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help='Appended to each question, instead of the protocol\'s. "" is none.')
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the generated problems (arithmetic, countdown, puzzles).")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Of the served weights. Default: the checkpoint's.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at once. Default: what the server runs at once.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that one attempt at a request may take.")
    ] = None,
    generations: Generations = None,
    output: Annotated[Path | None, typer.Option(help="The folder of results. Default: runs/eval-MODEL-TIME.")] = None,
    system: Annotated[
        str | None, typer.Option(help='The system prompt of a chat, instead of the protocol\'s. "" is none.')
    ] = None,
    read: Annotated[
        str | None,
        typer.Option(
            metavar="PLACES",
            help="Where answers stand, such as boxed,last_line: tag, boxed, hashes, phrase, last_line.",
        ),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved problems of the training split that come first.")
    ] = None,
    run: Run = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="N|all", help="Of --run: a step, 0 for the model before it; or all, drawn.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --output, with the same arguments: what came is not asked again.")
    ] = False,
) -> None:
    """Evaluate a model on benchmarks, or grade generations that are there."""
    with exit_codes():
        from rich.console import Console

        console = Console()
        if generations is not None:
            _refuse("generations", model=model, benchmark=benchmark, base_url=base_url, resume=resume or None, run=run)
            with loading("recipes.jobs.eval_generations"):
                from recipes.jobs.eval_generations import grade

            raise typer.Exit(grade(generations, samples, output, console))
        if run is None and checkpoint is not None:
            raise InputError("--checkpoint: of which run? Give --run RUN_DIR")
        if run is not None and not (run / "recipe.yaml").is_file():
            raise InputError(f"--run {run}: it has no recipe.yaml; expected the directory of a run")
        if said := give_up_unless_reachable([model if model and not base_url and not run else None]):
            typer.echo(said, err=True)
        with loading("recipes.jobs.evaluate"):
            from recipes.jobs.evaluate import Request
            from recipes.jobs.evaluate import evaluate as evaluate_model
        request = Request(
            model=model,
            benchmarks=benchmark or [],
            base_urls=base_url or [],
            samples=samples,
            temperature=temperature,
            max_tokens=max_tokens,
            template=template,
            instruction=instruction,
            limit=limit,
            data_dir=data_dir,
            seed=seed,
            dtype=dtype,
            concurrency=concurrency,
            timeout=timeout,
            output=output,
            resume=resume,
            system=system,
            read=[place.strip() for place in read.split(",")] if read is not None else (),
            shots=shots,
        )
        if run is None:
            code = evaluate_model(request, console)
        else:
            _refuse("run", model=model, base_url=base_url)
            from recipes.jobs.eval_run import evaluate_run

            code = evaluate_run(run, checkpoint, request, console)
    raise typer.Exit(code)


def _refuse(beside: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"--{name.replace('_', '-')}: has no meaning with --{beside}, {WHY[beside]}; leave it out")
