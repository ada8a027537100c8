"""The Hugging Face hub, asked once whether it answers: without a connection every look-up would retry for a minute.

A hub that does not answer within seconds is not asked again by this process, nor by its children: what its cache holds
still loads, and the rest fails at once.
"""

from __future__ import annotations

import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.schema.load import AnyRecipe
    from recipes.schema.recipe import TaskSettings

DEFAULT = "https://huggingface.co"
SECONDS = 3.0  # also for a name server that does not answer
OFFLINE = "HF_HUB_OFFLINE"  # read by huggingface_hub, and so by transformers, datasets and vLLM


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or DEFAULT


def offline() -> bool:
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def give_up_unless_reachable(names: Sequence[str | None]) -> str:
    """Go offline if one of `names` is to come from the hub, and the hub does not answer. Returns what to say of it.

    Args:
        names: of models and data sets; what is a folder or a file needs no hub, nor does None.
    """
    wanted = [name for name in names if name and is_hub_id(name)]
    if not wanted or offline() or _answers(endpoint()):
        return ""
    os.environ[OFFLINE] = "1"
    for module, name in (("huggingface_hub.constants", OFFLINE), ("datasets.config", OFFLINE)):
        if module in sys.modules:  # it has read the variable already
            setattr(sys.modules[module], name, True)
    return f"{endpoint()} does not answer: {', '.join(wanted)} can come from its cache on this machine only"


def hub_names(recipe: AnyRecipe) -> list[str | None]:
    """What a recipe may take from the hub."""
    named: Mapping[str, TaskSettings] = getattr(recipe, "tasks", None) or {}
    tasks, sources = [recipe.task, *named.values()], getattr(recipe, "data", [])
    known = {"gsm8k": "openai/gsm8k", "math": "DigitalLearningGmbH/MATH-lighteval"}
    of_tasks = [task.dataset or task.path or known.get(task.name or "") for task in tasks if task]
    return [recipe.model.path, *of_tasks, *(source.dataset for source in sources)]


def is_hub_id(name: str) -> bool:
    """Whether the name is of the form owner/name and no folder or file here."""
    return name.count("/") == 1 and name[0] not in "./~" and not Path(name).expanduser().exists()


def _answers(url: str) -> bool:
    """Whether anything answers there; proxies of the environment are used."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS)
        except urllib.error.HTTPError:
            pass  # an answer
        except (OSError, ValueError):
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # a name server may take longer than the timeout
    asking.start()
    asking.join(SECONDS)
    return answered.is_set()
