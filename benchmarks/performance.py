"""Runs the benchmarks of training and writes their tables and plots into docs/performance.md.

    python -m benchmarks.performance --model DIR                              # all of them: about two hours on 2 cores
    python -m benchmarks.performance --from FOLDER                            # the page again, from stored results
    python -m benchmarks.performance --from FOLDER --model DIR --only length  # one part again, then the page

Each part is a command of its own that leaves FOLDER/PART.json (runs/performance unless --from names another); what is
there already is not run again unless --only names it. The parts on the GPU run where there is one. On the page, what
stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->` is replaced; the prose around it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
Results = Mapping[str, Any]

# DIR is the model's folder, BATCH what vs_trl's calibration chose.
COMMANDS = {
    "matmul": "benchmarks.matmul",
    "vs_trl": "benchmarks.vs_trl --model DIR --calibrate",
    "vs_trl_accuracy": "benchmarks.vs_trl --model DIR --trl-batch BATCH --both 'rewards=[{name: accuracy}]'",
    "overlap": "benchmarks.overlap --model DIR",
    "learning": "benchmarks.vs_trl --model DIR --trl-batch BATCH --learning 40",
    "train_step": "benchmarks.train_step --model DIR --calibrate",
    "length": "benchmarks.train_step --model DIR --sweep length --tokens 8192 --rounds 2",
    "group": "benchmarks.train_step --model DIR --sweep group --rounds 2",
    "processes": "benchmarks.processes --model DIR",
    "sync": "benchmarks.sync --model DIR --shape qwen2.5-1.5b",
    "fleet": "benchmarks.fleet --model DIR",
}
ON_GPU = {
    "gpu_16k": "benchmarks.train_step --shape qwen2.5-1.5b --tokens 16384 --calibrate",
    "gpu_64k": "benchmarks.train_step --shape qwen2.5-1.5b --tokens 65536 --calibrate",
}


# -- running ----------------------------------------------------------------------------------------------------------


def run(name: str, arguments: argparse.Namespace, folder: Path) -> None:
    """The part's command; its output is shown."""
    stored = folder / "vs_trl.json"
    batch = json.loads(stored.read_text())["trl_batch"] if stored.is_file() else 16
    values = {"DIR": arguments.model or "DIR", "BATCH": str(batch)}
    words = [values.get(word, word) for word in shlex.split((COMMANDS | ON_GPU)[name])]
    if "vs_trl" in words[0]:
        words += [word for setting in arguments.set for word in ("--set", setting)]
    print(f"-- {name}: python -m {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words, "--json", str(folder / f"{name}.json")], check=True)


def machine() -> str:
    import psutil
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"model name\s*: (.+)", text)
    amx = "with AMX" if "amx_bf16" in text else "without AMX"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [
        f"{psutil.cpu_count()} cores of {name[1] if name else platform.machine()} ({amx})",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        ", ".join(gpus) or "no GPU",
        f"torch {torch.__version__}",
        *(f"{package} {_version(package)}" for package in ("transformers", "trl")),
    ]
    return "; ".join(parts)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Mapping[str, float]) -> str:
    return "**{median:.2f}** [{low:.2f}, {high:.2f}]".format(**values)


def _machine(results: Results) -> str:
    lines = [results["machine"]["text"] + "."]
    for dtype, one in results.get("matmul", {}).items():
        lines.append(f"Ceiling in {dtype}: {one['flops'] / 1e9:,.0f} GFLOP/s ({' x '.join(map(str, one['shape']))}).")
    return "\n".join(lines)


def _vs_trl(results: Results) -> str:
    return trainer_table(results["vs_trl"])


def _vs_trl_accuracy(results: Results) -> str:
    return trainer_table(results["vs_trl_accuracy"])


def trainer_table(found: Results) -> str:
    from benchmarks.vs_trl import PARTS

    ours, trl = found["ours"], found["trl"]
    rows = [["seconds a step", f"{ours['seconds']:.2f}", f"{trl['seconds']:.2f}", spread(found["speedup"])]]
    for part in PARTS:
        share = ours["parts"][part] / sum(ours["parts"].values())
        rows.append([f"- {part}", f"{ours['parts'][part]:.2f} ({share:.0%})", f"{trl['parts'][part]:.2f}", ""])
    rate = [f"{side['tokens_per_second']:,.0f}" for side in (ours, trl)]
    rows.append(["sampled tokens a second", *rate, spread(found["speedup_per_token"])])
    for name, label in (("process", "peak GiB, trainer"), ("all", "peak GiB, with the server")):
        peaks = [side["peak_gib"][name] for side in (ours, trl)]
        rows.append([label, *(f"{peak:.2f}" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"])
    still = [f"{side['zero_variance_groups']:.0%}" for side in (ours, trl)]
    rows.append(["groups without advantage", *still, ""])
    note = f"Median and range of {found['steps']} pairs of turns. TRL's micro-batch: {found['trl_batch']} completions"
    tried = ", ".join(f"{batch}: {seconds:.0f} s" for batch, seconds in found["calibration"].items())
    note += f", the fastest ({tried})." if tried else "."
    if found["set"]:
        note += f" Our recipe with {', '.join(found['set'])}."
    return table(["", "ours", "TRL", "TRL / ours"], rows) + "\n\n" + note


def _overlap(results: Results) -> str:
    from benchmarks.overlap import shown

    found = results["overlap"]
    turns = f"{found['rounds']} pairs of turns; mean staleness {found['staleness']:.2f} steps"
    return f"In seconds: {shown(found)}. {turns}."


def _learning(results: Results) -> str:
    found = results["learning"]
    rows = []
    for ours, trl in zip(found["ours"], found["trl"], strict=True):
        cells = [f"{s['accuracy']:.1%} [{s['low']:.1%}, {s['high']:.1%}]" for s in (ours, trl)]
        rows.append([str(ours["step"]), f"{ours['tokens']:,}", cells[0], f"{trl['tokens']:,}", cells[1]])
    head = ["step", "tokens, ours", "held out, ours", "tokens, TRL", "held out, TRL"]
    return table(head, rows) + "\n\n![held-out accuracy by tokens](performance_learning.png)"


def _train_step(results: Results) -> str:
    return step_table(results["train_step"])


def step_table(found: Results) -> str:
    ours, trl = found["ours"], found["trl"]
    rows = [["seconds a step", f"{ours['seconds']:.2f}", f"{trl['seconds']:.2f}", spread(found["speedup"])]]
    for part in ("pack", "forward", "backward", "optimizer"):
        rows.append([f"- {part}", *(f"{side['parts'].get(part, 0.0):.2f}" for side in (ours, trl)), ""])
    rows.append(["tokens a second", *(f"{side['tokens_per_second']:,.0f}" for side in (ours, trl)), ""])
    rows.append(["of the bf16 ceiling", *(f"{side['utilisation']:.1%}" for side in (ours, trl)), ""])
    peaks = [f"{side['peak_gib']:.2f}" for side in (ours, trl)]
    rows.append(["peak GiB", *peaks, f"ours / TRL: **{found['memory']:.2f}**"])
    rows.append(["gradient norm, first step", *(f"{side['grad_norm']:.4f}" for side in (ours, trl)), ""])
    note = (
        f"{found['model']}: {found['tokens']:,} tokens in {found['completions']} completions, "
        f"{found['rounds']} pairs of turns; TRL's micro-batch: {found['trl_batch']} completions."
    )
    return table(["", "ours", "TRL", "TRL / ours"], rows) + "\n\n" + note


def _sweep(name: str, of: str) -> Callable[[Results], str]:
    def made(results: Results) -> str:
        rows = [
            [
                f"{one[name]:,}", f"{one['completions']:,}", f"{one['tokens']:,}", f"{one['seconds']:.2f}",
                f"{1e3 * one['seconds_per_token']:.3f}", f"{one['peak_gib']:.2f}", f"{one['utilisation']:.1%}",
            ]
            for one in results[name]["points"]
        ]  # fmt: skip
        head = [of, "completions", "tokens", "seconds", "ms a token", "peak GiB", "of the ceiling"]
        return table(head, rows) + f"\n\n![cost and memory by {of}](performance_{name}.png)"

    return made


def _processes(results: Results) -> str:
    from benchmarks.processes import HEAD, rows

    found = results["processes"]
    return table(HEAD, rows(found)) + f"\n\n{Path(found['model']).name}, about {found['tokens']:,} tokens a step."


def _sync(results: Results) -> str:
    from benchmarks.sync import HEAD, rows

    return table(HEAD, rows(results["sync"])) + f"\n\n{results['sync']['syncs'][0]['syncs']} syncs each."


def _fleet(results: Results) -> str:
    from benchmarks.fleet import HEAD, rows

    found = results["fleet"]
    return table(HEAD, rows(found)) + f"\n\nMedian and range of {found['rounds']} pairs of turns."


def _gpu(results: Results) -> str:
    found = [results[name] for name in ON_GPU if name in results]
    if not found:
        return "Beside TRL's: not measured yet. The commands are ready, and `--shape tiny` runs them on a CPU."
    return "\n\n".join(step_table(one) for one in found)


def _commands(_: Results) -> str:
    lines = [f"python -m {command}" for command in {**COMMANDS, **ON_GPU}.values()]
    return "```\npython -m benchmarks.performance --model DIR   # all of these:\n" + "\n".join(lines) + "\n```"


SECTIONS: dict[str, Callable[[Results], str]] = {
    "machine": _machine,
    "vs_trl": _vs_trl,
    "vs_trl_accuracy": _vs_trl_accuracy,
    "overlap": _overlap,
    "learning": _learning,
    "train_step": _train_step,
    "length": _sweep("length", "completion length"),
    "group": _sweep("group", "group size"),
    "processes": _processes,
    "sync": _sync,
    "fleet": _fleet,
    "gpu": _gpu,
    "commands": _commands,
}


def sections(results: Results) -> dict[str, str]:
    """The text of every section whose result there is."""
    always = ("gpu", "commands")
    return {name: make(results) for name, make in SECTIONS.items() if name in results or name in always}


def replaced(page: str, texts: Mapping[str, str]) -> str:
    """The page with each section's text between its markers. Exits where a marker is missing."""
    for name, text in texts.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = page.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            sys.exit(f"{name}: no marker {begin.strip()} ... {end} in docs/performance.md")
        page = before + begin + text + "\n" + found_end + after
    return page


# -- plots ------------------------------------------------------------------------------------------------------------


def plot(results: Results, folder: Path) -> None:
    for name, label in (("length", "tokens of a completion"), ("group", "completions of a group")):
        if name in results:
            plot_sweep(results[name]["points"], name, label, folder / f"performance_{name}.png")
    if "learning" in results:
        plot_learning(results["learning"], folder / "performance_learning.png")


def plot_sweep(points: Sequence[Results], name: str, label: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    values = [one[name] for one in points]
    costs = [1e3 * one["seconds_per_token"] for one in points]
    for axis, ys, title in zip(
        axes, (costs, [one["peak_gib"] for one in points]), ("ms a token", "peak memory, GiB"), strict=True
    ):
        axis.plot(values, ys, marker="o")
        axis.set(xscale="log", xlabel=label, title=title, xticks=values, xticklabels=[f"{v:,}" for v in values])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_learning(found: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for side, label in (("ours", "ours"), ("trl", "TRL")):
        xs = [one["tokens"] for one in found[side]]
        axis.plot(xs, [one["accuracy"] for one in found[side]], marker="o", label=label)
        axis.fill_between(xs, [one["low"] for one in found[side]], [one["high"] for one in found[side]], alpha=0.15)
    axis.set(xlabel="tokens sampled", ylabel="held-out accuracy", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# -- the command ------------------------------------------------------------------------------------------------------


def wanted(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The parts to run: those that --only names, else those without a result; none without a model."""
    if arguments.only:
        return arguments.only
    if not arguments.model:
        return []
    import torch

    here = [*COMMANDS, *(ON_GPU if torch.cuda.is_available() else ())]
    return [name for name in here if not (folder / f"{name}.json").is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="a checkpoint's folder (SmolLM2-135M-Instruct for the page)")
    parser.add_argument("--from", type=Path, dest="folder", metavar="FOLDER", help="where results are or go")
    parser.add_argument("--only", action="append", choices=[*COMMANDS, *ON_GPU], help="run this part (again)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of our side's recipe in vs_trl"
    )
    arguments = parser.parse_args()
    if not (arguments.model or arguments.folder):
        parser.error("expected --model DIR to run the benchmarks, or --from FOLDER with their results")
    folder = arguments.folder or Path("runs/performance")
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted(arguments, folder):
        run(name, arguments, folder)
        (folder / "machine.json").write_text(json.dumps({"text": machine()}))
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    page = DOCS / "performance.md"
    page.write_text(replaced(page.read_text(), sections(results)))
    plot(results, DOCS)
    print(f"{page}: {', '.join(results) or 'no results yet'}")


if __name__ == "__main__":
    main()
