"""`zero rewards list` and `zero rewards check`. Exit codes of check: 0 nothing found, 1 findings, 2 bad input."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recipes.command.loading import loading, working
from recipes.errors import exit_codes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rewards.check import CheckReport, KindSummary
    from rewards.check.findings import Finding

rewards = typer.Typer(name="rewards", help="List reward functions, and check your own.", no_args_is_help=True)


@rewards.command("list")
def list_rewards() -> None:
    """List the built-in rewards, and those that installed packages offer."""
    from rich.console import Console
    from rich.text import Text

    from rewards.registry import BUILT_IN, installed_rewards

    table = _table("reward", "what it pays, and what it takes")
    for name, function in BUILT_IN.items():
        pays = (inspect.getdoc(function) or "").partition("\n")[0]
        table.add_row(name, Text(f"{pays}\n{', '.join(_parameters(function))}\n"))
    for name, points in installed_rewards().items():
        for point in points:
            package = f"of {point.dist.name}" if point.dist else "installed"
            hidden = " (never used: a built-in has this name)" if name in BUILT_IN else ""
            table.add_row(name, Text(f"{point.value}, {package}{hidden}\n"))
    Console().print(table)


@rewards.command()
def check(
    spec: Annotated[
        str,
        typer.Argument(metavar="SPEC", help="A built-in's or an installed name, file.py:function, module:function."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="FILE.jsonl or .csv with `completion`, `answer`, the function's columns, and `label` where known."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An argument of the reward, as in a recipe's args.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="ARGUMENT=COLUMN", help="Which column an argument of the reward takes.")
    ] = None,
    completions: Annotated[
        Literal["text", "messages"] | None, typer.Option(help="What the reward is given. Default: as it is annotated.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a call counts as hanging.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Try a reward on right, wrong and hostile completions: what breaks, and what a policy would exploit."""
    with exit_codes():
        from rich.console import Console

        with loading("recipes.jobs.score", "the rewards, and what they are tried on"):
            from recipes.jobs.rows import read_rows
            from recipes.jobs.score import reward_settings
            from rewards.check import check_reward

        (settings,) = reward_settings([spec], [], arg or [], column or [], completions)
        settings = settings.model_copy(update={"timeout": timeout})
        rows = read_rows(data) if data else []
        with working(f"checking {spec}"):
            report = check_reward(settings, rows)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            _print(report, Console())
    raise typer.Exit(1 if report.findings else 0)


@rewards.command()
def golds(
    data: Annotated[Path, typer.Option(help="FILE.jsonl with a gold answer in each line.")],
    column: Annotated[str, typer.Option(help="The column that holds it.")] = "answer",
    output: Annotated[
        Path | None, typer.Option(help="Write the rows here, the gold answers made ready, with `gold_kind`.")
    ] = None,
    drop_text: Annotated[
        bool, typer.Option("--drop-text", help="Leave out of it what can be compared only as text.")
    ] = False,
) -> None:
    """Say what can grade a data set's gold answers, and make them ready: labels, sentences, broken characters."""
    with exit_codes():
        with loading("eval.problems.data", "the verifier"):
            from eval.problems.data import open_splits, read_rows
            from grpo.record.atomic import readable, write_atomic
            from rewards.verifier.golds import normal_gold, summary
            from rewards.verifier.math import as_text

        splits = open_splits(str(data), None, None, "give a .jsonl or .parquet file")
        rows = [row for split in splits for _, row in read_rows(splits, split, str(data), [column])]
        normal = [normal_gold(as_text(row[column])) for row in rows]
        if output:
            kept = [(row, gold) for row, gold in zip(rows, normal, strict=True) if gold.kind != "text" or not drop_text]
            lines = [{**row, column: gold.text, "gold_kind": gold.kind} for row, gold in kept]
            write_atomic(output, "".join(f"{json.dumps(readable(line), default=str)}\n" for line in lines))
        typer.echo("\n".join(summary(normal)))


def _parameters(function: Callable[..., Any]) -> Iterator[str]:
    """The columns and arguments that it takes. Example: "answer", "n=3", "read=[tag, boxed]"."""
    for one in inspect.signature(function).parameters.values():
        if one.name not in ("completions", "completion") and one.kind is not one.VAR_KEYWORD:
            default = f"[{', '.join(one.default)}]" if isinstance(one.default, tuple) else one.default
            yield one.name if one.default is one.empty else f"{one.name}={default}"


def _print(report: CheckReport, console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(f"{report.spec}: {_verdict(report)}\n\n" + "\n".join(_facts(report)) + "\n"))
    table = _table("completions", "number", "lowest", "mean", "highest")
    for row in report.table:
        table.add_row(row.kind, str(row.n), *_values(row))
    console.print(table)
    for one in report.findings:
        console.print(Text(f"\n{one.name}: {_meaning(one)}", style="bold"))
        for line in _details(one):
            console.print(Padding(Text(line), (0, 0, 0, 2)))
    for note in report.notes:
        console.print(Text(f"\nnote: {note}"))


def _verdict(report: CheckReport) -> str:
    names = ", ".join(dict.fromkeys(one.name for one in report.findings))
    return f"found {names}" if names else "nothing found"


def _facts(report: CheckReport) -> Iterator[str]:
    from rewards.check.corpus import TYPES

    values = "no values" if report.low is None else f"values from {report.low:.3g} to {report.high:.3g}"
    yield f"{report.completions} completions, {values}, {report.none_share:.0%} None"
    if report.latency:
        p50, p95, most = (_duration(report.latency[name]) for name in ("p50", "p95", "max"))
        yield f"one completion takes {p50} (p50), {p95} (p95), {most} (max)"
    if report.grades:
        other = [type for type in TYPES if type not in report.grades]
        yield f"tells right from wrong for {', '.join(report.grades)}" + (f"; not for {', '.join(other)}" * bool(other))
        yield f"reads answers in the form {', '.join(report.reads)}"


def _meaning(one: Finding) -> str:
    from rewards.check.findings import MEANING

    return MEANING[one.name]


def _details(one: Finding) -> Iterator[str]:
    yield one.summary
    for example in one.examples:
        value = "no value" if example.value is None else f"{example.value:.3g}"
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in example.completion)
        yield f'{value} for "{text}"' + (f", answer {example.answer}" if example.answer else "")


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right" if name in ("number", "lowest", "mean", "highest") else "left")
    return table


def _values(row: KindSummary) -> list[str]:
    return ["" if value is None else f"{value:.3g}" for value in (row.low, row.mean, row.high)]


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
