"""A trainer's tensors on disk, by torch.distributed.checkpoint: written by all ranks, read by any number of them.

Writing takes a copy, and is done beside the training.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import STATE_DICT_TYPE, Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from grpo.policy.shard.ranks import Ranks
from grpo.record.atomic import no_room

# That it works without processes is meant. Not in `catch_warnings`, which is the whole process's: others run meanwhile.
warnings.filterwarnings("ignore", "torch.distributed is disabled", module="torch.distributed.checkpoint")


def staged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, each rank's of its own shards; what has several names is copied once."""
    copies: dict[tuple[object, ...], Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        place = local.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        found[name] = copies[place]
    return found


def save_state(copies: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> Future[None]:
    """Each rank writes its shards of what is `staged` into `folder`, in a thread.

    The future ends when all have written, or raises what the first rank that failed raised: an OSError, mostly.
    """
    written: Future[None] = Future()

    def done(saving: Future[Metadata]) -> None:
        try:
            with _first_failure():
                saving.result()
        except Exception as error:  # whoever asks gets it
            written.set_exception(error)
        else:
            written.set_result(None)

    group, writer = ranks.writers, _Writer(folder)
    saving = dcp.async_save(dict(copies), storage_writer=writer, process_group=group, no_dist=group is None)
    assert isinstance(saving, Future)  # another kind comes of a stager that is asynchronous
    saving.add_done_callback(done)
    return written


def load_state(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Fill `tensors` in place. Raises as `save_state`."""
    reader = dcp.FileSystemReader(folder)
    with _first_failure():
        dcp.load(dict(tensors), storage_reader=reader, process_group=ranks.group, no_dist=ranks.group is None)


class _Writer(dcp.FileSystemWriter):
    """Says that there is no room where torch says something else, and before the error loses its cause on its way."""

    def stage(self, state_dict: STATE_DICT_TYPE) -> STATE_DICT_TYPE:
        return state_dict  # copies already

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
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
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error
