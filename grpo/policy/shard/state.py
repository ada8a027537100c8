"""A trainer's tensors on disk, by torch.distributed.checkpoint: written by all ranks, read by any number of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from grpo.policy.shard.ranks import Ranks
from grpo.record.atomic import no_room


def save_state(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Each rank writes its shards into `folder`. Raises what the first rank that failed raised: an OSError, mostly."""
    writer = _Writer(folder, single_file_per_rank=True)
    with _first_failure():
        dcp.save(dict(tensors), storage_writer=writer, process_group=ranks.group, no_dist=ranks.group is None)


def load_state(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Fill `tensors` in place. Raises as `save_state`."""
    reader = dcp.FileSystemReader(folder)
    with _first_failure():
        dcp.load(dict(tensors), storage_reader=reader, process_group=ranks.group, no_dist=ranks.group is None)


class _Writer(dcp.FileSystemWriter):
    """Says that there is no room where torch says something else, and before the error loses its cause on its way."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        with _no_room():
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        with _no_room():
            super().finish(metadata, results)


@contextmanager
def _no_room() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if code := no_room(error):
            raise OSError(code, os.strerror(code)) from error
        raise


@contextmanager
def _first_failure() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it works without processes, which is meant
            yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error
