"""Checkpoints that are not as they were written: passed over, kept aside, said; and a disk that is full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from grpo.checkpoint import (
    CHECKSUMS,
    DamagedCheckpoint,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_damaged_aside,
    verify,
)
from tests.conftest import character_tokenizer


class Model(nn.Linear):
    def save_pretrained(self, folder: Path) -> None:
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text("{}")


class Update:
    """The state of an update: one tensor."""

    def __init__(self, value: float = 0.0, size: int = 1000) -> None:
        self.masters = torch.full((size,), value)

    def state_dict(self) -> dict[str, Any]:
        return {"masters": self.masters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masters = state["masters"]


def save(run_dir: Path, step: int, keep: int = 9, size: int = 1000, facts: dict[str, Any] | None = None) -> Path:
    what = (Model(4, 4), character_tokenizer(), Update(step, size))
    return save_checkpoint(run_dir, step, *what, facts or {"wall_seconds": 1.0}, keep)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_shape(path: Path) -> None:
    path.write_text("[1, 2]")


def empty_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


DAMAGES = [
    ("trainer.pt", truncate),
    ("trainer.pt", empty),
    ("trainer.pt", Path.unlink),
    ("trainer.pt", flip),
    ("trainer.json", truncate),
    ("trainer.json", Path.unlink),
    ("trainer.json", another_shape),
    ("model.safetensors", truncate),
    ("model.safetensors", Path.unlink),
    (".", empty_folder),
]


@pytest.mark.parametrize("with_checksums", [True, False], ids=["checksums", "none"])
@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_said_and_kept_aside(
    tmp_path: Path, name: str, damage: Callable[[Path], None], with_checksums: bool
) -> None:
    for step in (1, 2):
        folder = save(tmp_path, step)
        if not with_checksums:  # as an older version wrote it
            (folder / CHECKSUMS).unlink()
    damage(folder / name)
    (sentence,) = set_damaged_aside(tmp_path)
    assert sentence.startswith("checkpoint step-000002 is damaged")
    assert name in sentence or name == "."
    assert checkpoints(tmp_path) == [(1, tmp_path / "checkpoints" / "step-000001")]
    assert (tmp_path / "checkpoints" / "step-000002.damaged").is_dir()
    assert set_damaged_aside(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "damage"), [("model.safetensors", flip), (CHECKSUMS, truncate), (CHECKSUMS, another_shape)]
)
def test_a_flipped_byte_of_any_file_and_damaged_checksums_are_found(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = save(tmp_path, 1)
    verify(folder)
    damage(folder / name)
    with pytest.raises(DamagedCheckpoint, match=name):
        verify(folder)


def test_what_is_kept_aside_is_not_counted_and_leaves_its_step_to_a_new_checkpoint(tmp_path: Path) -> None:
    for _ in range(2):
        save(tmp_path, 1, keep=2)
        flip(save(tmp_path, 2, keep=2) / "trainer.pt")
        assert set_damaged_aside(tmp_path)
    save(tmp_path, 2, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [1, 2]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000001", "step-000002", "step-000002.damaged", "step-000002.damaged1"]


def test_trainer_json_has_the_step_of_its_checkpoint_whatever_was_known_before(tmp_path: Path) -> None:
    facts = load_checkpoint(save(tmp_path, 2), Update())
    assert facts == {"step": 2, "wall_seconds": 1.0}
    assert load_checkpoint(save(tmp_path, 4, facts=facts), Update())["step"] == 4


# -- a full disk -----------------------------------------------------------------------------------


def fill(disk: Path, leave: int) -> None:
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - leave))


@pytest.mark.parametrize("leave", [0, 8192, 16384, 40960, 500_000])
def test_a_disk_that_fills_up_anywhere_in_a_checkpoint_is_one_error_and_leaves_the_one_before(
    small_disk: Path, leave: int
) -> None:
    """What is left is taken by the folder, the weights, the tokenizer or the state: each has an error of its own."""
    before = save(small_disk, 1)
    fill(small_disk, leave)
    message = r"cannot write .*checkpoints/step-000002: No space left on device; free some space there"
    with pytest.raises(OSError, match=message):
        save(small_disk, 2, size=1_000_000)
    assert list(before.parent.iterdir()) == [before]
    verify(before)
    (small_disk / "filler").unlink()
    verify(save(small_disk, 2))
