"""Checkpoints that are not as they were written: passed over, kept aside, said; and a disk that is full."""

from __future__ import annotations

import errno
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemWriter

from grpo.policy.checkpoint import (
    CHECKSUMS,
    STATE,
    CheckpointWriter,
    DamagedCheckpoint,
    checkpoints,
    load_checkpoint,
    set_damaged_aside,
    verify,
)
from grpo.policy.shard.ranks import ALONE
from grpo.policy.shard.state import load_state, save_state, staged
from tests.checkpoints import STATE_FILE
from tests.conftest import character_tokenizer


class Learner:
    """A tensor, as the learner keeps its own."""

    def __init__(self, value: float = 0.0, size: int = 1000) -> None:
        self.masters = torch.full((size,), value)
        self.gates: dict[float, threading.Event] = {}  # by value: what is written then waits for it
        self.copies: list[weakref.ref[torch.Tensor]] = []

    def save(self, folder: Path, state_folder: Path) -> Callable[[], None]:
        value, copies = self.masters[0].item(), staged({"masters": self.masters})
        self.copies.append(weakref.ref(copies["masters"]))
        saving = save_state(copies, state_folder, ALONE)

        def write() -> None:
            saving.result()
            assert value not in self.gates or self.gates[value].wait(60)
            save_file({"weight": torch.full((16,), value)}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")

        return write

    def load_state(self, folder: Path) -> None:
        load_state({"masters": self.masters}, folder, ALONE)


def save(run_dir: Path, step: int, keep: int = 9, size: int = 1000, facts: dict[str, Any] | None = None) -> Path:
    writer = CheckpointWriter(run_dir, Learner(step, size), character_tokenizer(), keep)
    writer.begin(step, facts or {"wall_seconds": 1.0})
    writer.close()
    writer.finish()
    return run_dir / "checkpoints" / f"step-{step:06d}"


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


# -- written while the run goes on ---------------------------------------------------------------------


@pytest.fixture
def learner() -> Learner:
    """Of value 1; what it writes then waits for a gate."""
    learner = Learner(1.0)
    learner.gates[1.0] = threading.Event()
    return learner


def writer_of(run_dir: Path, learner: Learner, keep: int = 9) -> CheckpointWriter:
    return CheckpointWriter(run_dir, learner, character_tokenizer(), keep)


def steps(run_dir: Path) -> list[int]:
    return [step for step, _ in checkpoints(run_dir)]


def test_a_checkpoint_holds_what_was_there_when_it_began_whatever_is_trained_while_it_is_written(
    tmp_path: Path, learner: Learner
) -> None:
    writer, facts = writer_of(tmp_path, learner), {"prompts": [1]}
    writer.begin(1, facts)
    assert writer.newest == 1
    assert steps(tmp_path) == []
    learner.masters += 1
    facts["prompts"].append(2)
    learner.gates[1.0].set()
    writer.finish()
    assert steps(tmp_path) == [1]
    folder = tmp_path / "checkpoints" / "step-000001"
    verify(folder)
    assert load_file(folder / "model.safetensors")["weight"].tolist() == [1.0] * 16
    assert load_checkpoint(folder, learner) == {"prompts": [1], "step": 1}
    assert learner.masters.tolist() == [1.0] * 1000


def test_the_next_checkpoint_waits_for_the_one_before_and_there_is_one_copy_at_a_time(
    tmp_path: Path, learner: Learner
) -> None:
    writer = writer_of(tmp_path, learner, keep=1)
    writer.begin(1, {})
    learner.masters += 1
    second = threading.Thread(target=writer.begin, args=(2, {}))
    second.start()
    second.join(0.3)  # however long: it cannot begin
    assert second.is_alive()
    assert len(learner.copies) == 1
    learner.gates[1.0].set()
    second.join()
    assert learner.copies[0]() is None
    writer.finish()
    assert steps(tmp_path) == [2]


def test_older_checkpoints_go_when_the_new_one_is_whole(tmp_path: Path, learner: Learner) -> None:
    learner.masters -= 1
    writer = writer_of(tmp_path, learner, keep=1)
    writer.begin(1, {})
    learner.masters += 1
    writer.begin(2, {})
    assert steps(tmp_path) == [1]
    learner.gates[1.0].set()
    writer.finish()
    assert steps(tmp_path) == [2]


def test_what_a_checkpoint_failed_with_is_raised_by_whatever_is_asked_next_and_nothing_of_it_is_left(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(writer: object, plan: object, planner: object) -> None:
        raise OSError(errno.EIO, "the disk says no")

    before = save(tmp_path, 1)
    learner.gates[1.0].set()
    monkeypatch.setattr(FileSystemWriter, "write_data", fails)
    writer = writer_of(tmp_path, learner)
    writer.begin(2, {})
    writer.close()
    for ask in (writer.check, writer.finish, lambda: writer.begin(3, {})):
        with pytest.raises(OSError, match=r"cannot write .*checkpoints/step-000002: the disk says no"):
            ask()
    assert list(before.parent.iterdir()) == [before]


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
