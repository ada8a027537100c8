"""Weights through a file: in shared memory for servers on this machine, in a shared folder for those on others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.stream import WeightStream, to_json
from grpo.rollout.sync.transfer import Staged, each, half_loaded
from grpo.rollout.sync.weight_file import WeightFile, WeightFolder
from grpo.rollout.vllm.watch import own_name


def shared_memory() -> WeightFolder:
    """Where a version is kept on this machine; what vLLM's workers have mapped is in memory once for all of them."""
    roots = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    name = own_name()
    folders = [root / name for root in roots if root.is_dir()]
    return WeightFolder(folders, "enlarge /dev/shm (docker: --shm-size) or point TMPDIR at a larger disk")


class FileTransfer:
    """A `Transfer` through files. A version's file stays until it is discarded, so that a new server can read it.

    Args:
        folder: this transfer alone uses it, and the servers' machines see it; None: this machine's shared memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.name = "shm" if folder is None else "files"
        self.keeps = True
        self._files = shared_memory()
        if folder is not None:
            self._files = WeightFolder([folder.absolute()], "point rollout.server.weight_dir at a larger disk")
        self.folders: Sequence[Path] = self._files.folders

    def stage(self, stream: WeightStream, version: int) -> Staged:
        return staged_in(self._files, stream, version)

    async def send(self, controls: Sequence[ControlPlane], staged: Staged) -> None:
        assert isinstance(staged.stream, WeightFile)
        announced = {"path": str(staged.stream.path), "specs": to_json(staged.specs), "digests": staged.digests}
        # All workers of all servers agree that it is what was written, before the first of them loads any of it.
        await each(controls, lambda control: control.update({"check_file": announced}))
        with half_loaded():
            await each(controls, lambda control: control.update({"load_file": {}}))

    def discard(self, staged: Staged) -> None:
        discard_file(staged)

    def forget(self, url: str) -> None:
        pass  # nothing is set up with a server

    def close(self) -> None:
        self._files.close()


def staged_in(files: WeightFolder, stream: WeightStream, version: int) -> Staged:
    """A copy in a file: whatever the trainer does to its tensors, this can be sent."""
    file = files.new_file(stream.specs, version)
    return Staged(version, file, kept=True, digests=file.write(stream))


def discard_file(staged: Staged) -> None:
    if isinstance(staged.stream, WeightFile):
        staged.stream.path.unlink(missing_ok=True)
