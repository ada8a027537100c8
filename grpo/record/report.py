"""A run's report from the files in its directory: the learning curve and one page that needs no network.

`zero report RUN_DIR` calls `write_report` for a run that is finished, stopped or still going.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.record.atomic import write_atomic
from grpo.record.display import interval, show
from grpo.record.duration import duration
from grpo.record.stored import HELD_OUT, ROLLOUTS, RecordError, missing_steps, read_lines, read_rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RolloutRow = Mapping[str, Any]
SAMPLES = 4  # completions shown of the first and of the last step
SAMPLE_COLUMNS = ["prompt_id", "prompt", "completion", "answer", "reward", "outcome", "reason"]

BLUE, ORANGE = "#1f5fa8", "#d98032"
CURVES = {"reward": "training reward", "length": "completion length (tokens)", "entropy": "entropy (nats)"}
SUPERVISED_CURVES = {"loss": "loss (nats)", "heldout_loss": "held-out loss (nats)", "entropy": "entropy (nats)"}
HEALTH = {
    "grad_norm": "gradient norm",
    "logprob_diff": "|trainer - server| log-prob (nats)",
    "zero_variance_groups": "groups without a signal (share)",
    "truncated": "cut at max_tokens (share)",
    "failed": "failed (share)",
    "seconds": "seconds a step",
}


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run. `steps` and `evaluations` are the lines of their files, in order."""

    title: str
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]  # those that graded a problem
    summary: dict[str, Any]  # {} until the run is finished
    recipe: str  # YAML, "" if there is none
    samples: dict[str, list[RolloutRow]]  # of the first and the last rollouts file: its name -> completions to show
    unread: list[str]  # a sentence for everything that is missing or cannot be read


def read_run(run_dir: Path) -> Run:
    """Raises: FileNotFoundError if `run_dir` holds no run."""
    metrics, summary, recipe = (run_dir / name for name in ("metrics.jsonl", "summary.json", "recipe.yaml"))
    if not metrics.exists():
        raise FileNotFoundError(f"{run_dir} is no run directory with a finished step: it has no metrics.jsonl")
    unread: list[str] = []
    steps = read_lines(metrics, say=unread.append)
    unread += missing_steps(metrics, steps, max((row["step"] for row in steps), default=0))
    rows = read_lines(run_dir / "evaluations.jsonl", HELD_OUT, unread.append)
    evaluations = {row["step"]: row for row in rows if row["n"]}  # the last word on a step
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.exists() else ""
    return Run(
        title=_title(recipe, text, unread),
        steps=steps,
        evaluations=[evaluations[step] for step in sorted(evaluations)],
        summary=_summary(summary, unread),
        recipe=text,
        samples=_samples(sorted((run_dir / "rollouts").glob(ROLLOUTS)), unread),
        unread=unread,
    )


def run_title(recipe: Mapping[str, Any]) -> str:
    """`Zero: smollm2 on gsm8k`, of a resolved recipe."""
    model, task = recipe.get("model") or {}, recipe.get("task") or {}
    return f"Zero: {Path(str(model.get('path', 'model'))).name} on {task.get('name') or task.get('dataset') or 'task'}"


def write_report(run_dir: Path) -> Path:
    """Write learning_curve.png and report.html; returns the page's path."""
    run = read_run(run_dir)
    curve = _png(learning_curve(run))
    write_atomic(run_dir / "learning_curve.png", curve)
    write_atomic(run_dir / "report.html", _page(run, curve, _png(_small_multiples(run, HEALTH))))
    return run_dir / "report.html"


# -- curves ----------------------------------------------------------------------------------------


def learning_curve(run: Run) -> Figure:
    """Held-out accuracy with its 95% intervals above; reward, length and entropy below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    curves = CURVES if any("reward" in row for row in run.steps) or not run.steps else SUPERVISED_CURVES
    grid = figure.add_gridspec(2, len(curves), height_ratios=[2, 1])
    figure.suptitle(run.title)
    _accuracy(figure.add_subplot(grid[0, :]), run)
    for column, (key, label) in enumerate(curves.items()):
        _metric(figure.add_subplot(grid[1, column]), run, key, label)
    return figure


def terminal_curve(run: Run, width: int = 80) -> str:
    """The accuracy panel of the learning curve in characters, `width` columns wide."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, 18)
    figure.title("accuracy (%)")
    figure.label("step")
    figure.ruler("y").lim(0, 100)
    last = max([row["step"] for row in [*run.steps, *run.evaluations]], default=1)
    figure.ruler("x").lim(0, last)
    figure.legend(x=last, y=0, ha="right", va="bottom", relative=True)
    steps, accuracy = _series(run, "accuracy")
    if steps:
        signal = figure.signal(steps, [100 * value for value in accuracy])
        figure.draw(signal.lines().label("training"))
    if run.evaluations:
        x, y = [row["step"] for row in run.evaluations], [100 * row["accuracy"] for row in run.evaluations]
        for row in run.evaluations:
            figure.draw(figure.signal([row["step"]] * 2, [100 * row["low"], 100 * row["high"]], marker="│").lines())
        figure.draw(figure.signal(x, y, marker="●").label("held-out, 95% interval"))
    return figure.build().string(colorless=True)


def _accuracy(axes: Axes, run: Run) -> None:
    steps, accuracy = _series(run, "accuracy")
    if steps:
        axes.plot(steps, [100 * value for value in accuracy], color=ORANGE, linewidth=1, alpha=0.8, label="training")
    if run.evaluations:
        x = [row["step"] for row in run.evaluations]
        y, low, high = ([100 * row[key] for row in run.evaluations] for key in ("accuracy", "low", "high"))
        errors = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.12, linewidth=0)
        axes.errorbar(x, y, yerr=errors, color=BLUE, marker="o", capsize=4, label="held-out, 95% interval")
        for i in dict.fromkeys((0, len(x) - 1)):
            below = low[i] > 10  # there is room between the interval and the axis
            at, offset, va = (low[i], -6, "top") if below else (high[i], 6, "bottom")
            axes.annotate(
                f"{y[i]:.1f}%", (x[i], at), (0, offset), textcoords="offset points", ha="center", va=va, color=BLUE
            )
    axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    if steps or run.evaluations:
        axes.legend(loc="lower right")
    _style(axes)


def _metric(axes: Axes, run: Run, key: str, label: str) -> None:
    axes.plot(*_series(run, key), color=BLUE, linewidth=1.2)
    axes.set_title(label, fontsize=10)
    _style(axes)


def _style(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _small_multiples(run: Run, metrics: Mapping[str, str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    for index, (key, label) in enumerate(metrics.items(), 1):
        _metric(figure.add_subplot(2, (len(metrics) + 1) // 2, index), run, key, label)
    return figure


def _series(run: Run, key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in run.steps if row.get(key) is not None]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


# -- the page --------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
pre { background: #f5f5f3; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.correct { border-left: 4px solid #3a8f4b; } .other { border-left: 4px solid #b94a3e; } .prompt { color: #777; }
.headline { font-size: 1.3rem; } .unread { color: #b94a3e; }
"""


def _page(run: Run, curve: bytes, health: bytes) -> str:
    title = html.escape(run.title)
    shown = "".join(
        f"<h2>{html.escape(name)}: what the model wrote</h2>{''.join(map(_sample, rows))}"
        for name, rows in run.samples.items()
    )
    recipe = f"<details><summary>Recipe</summary><pre>{html.escape(run.recipe)}</pre></details>" if run.recipe else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{_headline(run)}{_image(curve, 'learning curve')}"
        f"<h2>Numbers</h2>{_numbers(run)}<h2>Health</h2>{_image(health, 'health of the run')}{shown}{recipe}</html>\n"
    )


def _headline(run: Run) -> str:
    facts = [f"{len(run.steps)} steps"]
    if "wall_seconds" in run.summary:
        facts.append(duration(run.summary["wall_seconds"]))
    if "engine" in run.summary:
        facts.append(f"engine {run.summary['engine']}")
    if not run.summary:
        facts.append("not finished")
    line = ""
    if run.evaluations:
        first, last = run.evaluations[0], run.evaluations[-1]
        change = interval(first) if first is last else f"{interval(first)} → {interval(last)}"
        line = f'<p class="headline">Held-out accuracy, 95% interval: <b>{change}</b> ({last["n"]} problems)</p>'
    unread = "".join(f'<p class="unread">{html.escape(sentence)}</p>' for sentence in run.unread)
    return f"{line}<p>{html.escape(', '.join(facts))}</p>{unread}"


def _numbers(run: Run) -> str:
    if not run.steps:
        return "<p>No step is finished.</p>"
    first, last = run.steps[0], run.steps[-1]
    keys = [key for key in dict.fromkeys([*first, *last]) if key != "step"]
    rows = "".join(
        f'<tr><td>{html.escape(key)}<td class="number">{show(first.get(key), "{:.4g}")}'
        f'<td class="number">{show(last.get(key), "{:.4g}")}'
        for key in keys
    )
    return f"<table><tr><th>metric<th>step {first['step']}<th>step {last['step']}{rows}</table>"


def _sample(row: RolloutRow) -> str:
    kind = "correct" if row["outcome"] == "correct" else "other"
    verdict = f"{row['outcome'] or 'not graded'}, reward {show(row['reward'], '{:.3g}')}, answer {row['answer']}"
    reason = f": {row['reason']}" if row["reason"] else ""
    return (
        f'<p>{html.escape(verdict + reason)}</p><pre class="{kind}"><span class="prompt">{html.escape(row["prompt"])}'
        f"</span>{html.escape(row['completion'])}</pre>"
    )


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _samples(files: Sequence[Path], unread: list[str]) -> dict[str, list[RolloutRow]]:
    """Of the first and the last file, the first completion of each of the first prompts: not chosen by how good it is.

    Every other file is only opened; what cannot be read goes to `unread`.
    """
    found: dict[str, list[RolloutRow]] = {}
    for path in files:
        shown = path in (files[0], files[-1])
        try:
            rows = read_rollouts(path, SAMPLE_COLUMNS if shown else [])
        except RecordError as error:
            unread.append(str(error))
            continue
        if shown:
            firsts = {row["prompt_id"]: row for row in reversed(rows)}
            found[path.stem] = [firsts[prompt] for prompt in dict.fromkeys(row["prompt_id"] for row in rows)][:SAMPLES]
    return found


def _summary(path: Path, unread: list[str]) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        summary = error
    if not isinstance(summary, dict):
        unread.append(f"{path} cannot be read: {summary}; expected an object")
    return summary if isinstance(summary, dict) else {}


def _title(path: Path, recipe: str, unread: list[str]) -> str:
    import yaml

    try:
        return run_title(yaml.safe_load(recipe)) if recipe else path.parent.name
    except (yaml.YAMLError, AttributeError) as error:
        unread.append(f"{path} cannot be read: {error}")
        return path.parent.name
