"""What `model.path` and `--model` name: a folder, or a model of the hub. One rule, for all who take one.

A folder that exists wins over a hub id of the same name; `~` is the home folder. What has the form owner/name and is no
folder is a hub id. Anything else is a folder that is missing.
"""

from __future__ import annotations

from pathlib import Path

from grpo.config import ModelError

EXPECTED = "expected a transformers checkpoint folder"


def is_folder(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def model_source(path: str, named_by: str = "model.path:") -> str:
    """What transformers and vLLM take for it: the folder's path, or the hub id.

    Args:
        named_by: the key or the option that has `path`, for the message.

    Raises:
        ModelError: the folder is missing, or holds no checkpoint.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{named_by} {path} has no config.json; {EXPECTED}")
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{named_by} {path} is not a folder; {EXPECTED}, or a hub id such as owner/name")
    return path
