"""A chain as `zero watch` follows it: its stages in order, and what each is doing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from grpo.page.live import LiveRun, in_use

CONTENT = "chain.yaml"


def is_chain_dir(folder: Path) -> bool:
    return (folder / CONTENT).is_file() or (folder / "stages").is_dir()


def stage_names(folder: Path) -> list[str]:
    """In the order of the chain; stages that it does not name, of an older one, come last."""
    named = [name for name in _stages(folder) if Path(name).name == name and name not in (".", "..")]
    there = sorted(path.name for path in (folder / "stages").glob("[!.]*") if path.is_dir())
    return [*dict.fromkeys([*named, *there])]


def chain_state(folder: Path, run: Callable[[Path], LiveRun], seen: str) -> dict[str, Any]:
    """{"title", "facts", "stages": [{name, kind, model, status, facts, text}]}, or {"unchanged": True}."""
    known = _stages(folder)
    rows = []
    for name in stage_names(folder):
        settings = known.get(name)
        settings = settings if isinstance(settings, dict) else {}
        model = settings.get("model")
        at = folder / "stages" / name
        state = run(at).state()
        finished = (at / "stage.json").is_file()
        rows.append(
            {
                "name": name,
                "kind": str(settings.get("kind", "")),
                "model": str(model.get("path", "base") if isinstance(model, dict) else model or "base"),
                "status": "finished" if finished else state["status"],
                "facts": state["facts"] if state["status"] != "waiting" else "",
                "now": state["log"][-1] if state["status"] == "running" and state["log"] else "",
            }
        )
    status = "running" if in_use(folder / ".lock") else ""
    done = sum(row["status"] == "finished" for row in rows)
    facts = f"{done} of {len(rows)} stages finished" + (", running" if status else "")
    version = str(hash(repr(rows) + facts))
    if version == seen:
        return {"unchanged": True}
    return {"title": f"Zero: {folder.resolve().name}", "facts": facts, "stages": rows, "version": version}


def _stages(folder: Path) -> dict[str, Any]:
    """{} as long as there is no chain.yaml that can be read."""
    try:
        chain = yaml.safe_load((folder / CONTENT).read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    stages = chain.get("stages") if isinstance(chain, dict) else None
    return {str(name): settings for name, settings in stages.items()} if isinstance(stages, dict) else {}


def runs_of(folder: Path) -> list[Path]:
    """The folder; of a chain, its stages that have trained."""
    if not is_chain_dir(folder):
        return [folder]
    stages = [folder / "stages" / name for name in stage_names(folder)]
    return [stage for stage in stages if (stage / "metrics.jsonl").is_file()] or [folder]
