"""Checkpoints that are not as they were written: passed over, kept aside, said; and a disk that is full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from grpo.policy.checkpoint import (
    CHECKSUMS,
    STATE,
    DamagedCheckpoint,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_damaged_aside,
    verify,
)
from grpo.policy.shard.ranks import ALONE
from grpo.policy.shard.state import load_state, save_state
from tests.checkpoints import STATE_FILE
from tests.conftest import character_tokenizer


class Learner:
    """A tensor, as the learner keeps its own."""

    def __init__(self, value: float = 0.0, size: int = 1000) -> None:
        self.masters = torch.full((size,), value)

    def save_model(self, folder: Path) -> None:
        save_file({"weight": torch.ones(16)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    def save_state(self, folder: Path) -> None:
        save_state({"masters": self.masters}, folder, ALONE)

    def load_state(self, folder: Path) -> None:
        load_state({"masters": self.masters}, folder, ALONE)


def save(run_dir: Path, step: int, keep: int = 9, size: int = 1000, facts: dict[str, Any] | None = None) -> Path:
    learner = Learner(step, size)
    return save_checkpoint(run_dir, step, learner, character_tokenizer(), facts or {"wall_seconds": 1.0}, keep)


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
    (STATE_FILE, truncate),
    (STATE_FILE, empty),
    (STATE_FILE, Path.unlink),
    (STATE_FILE, flip),
    (f"{STATE}/.metadata", flip),
    (CHECKSUMS, Path.unlink),
    ("trainer.json", truncate),
    ("trainer.json", Path.unlink),
    ("trainer.json", another_shape),
    ("model.safetensors", truncate),
    ("model.safetensors", Path.unlink),
    (".", empty_folder),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_said_and_kept_aside(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for step in (1, 2):
        folder = save(tmp_path, step)
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
        flip(save(tmp_path, 2, keep=2) / STATE_FILE)
        assert set_damaged_aside(tmp_path)
    save(tmp_path, 2, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [1, 2]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000001", "step-000002", "step-000002.damaged", "step-000002.damaged1"]


def test_trainer_json_has_the_step_of_its_checkpoint_whatever_was_known_before(tmp_path: Path) -> None:
    learner = Learner()
    facts = load_checkpoint(save(tmp_path, 2), learner)
    assert facts == {"step": 2, "wall_seconds": 1.0}
    assert learner.masters.tolist() == [2.0] * 1000
    assert load_checkpoint(save(tmp_path, 4, facts=facts), learner)["step"] == 4


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
