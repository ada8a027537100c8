"""Sum a tensor over two processes, for tests of what several processes give together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def summed_over_two(share: Callable[[int], Tensor], folder: Path) -> Tensor:
    """share(rank) is computed in process `rank`, 0 or 1; both are summed by gloo. `share` must be picklable."""
    torch.multiprocessing.spawn(_process, (share, str(folder), list(sys.path)), nprocs=2)
    return torch.load(folder / "sum.pt")


def _process(rank: int, share: Callable[[int], Tensor], folder: str, path: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    total = share(rank)
    dist.all_reduce(total)
    if rank == 0:
        torch.save(total, f"{folder}/sum.pt")
    dist.destroy_process_group()
