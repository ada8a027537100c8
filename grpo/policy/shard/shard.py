"""A policy over several ranks: FSDP2, with fp32 shards as the masters.

Each decoder block and the rest (the root) are gathered when they are computed, in the compute dtype; gradients are
summed in fp32. Losses count the whole batch in their normalisers, so gradients are summed and never averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.config import ModelError
from grpo.policy.policy import Policy
from grpo.policy.shard.ranks import Ranks


def shard(policy: Policy, ranks: Ranks, device: torch.device) -> None:
    """Spread `policy` over the ranks, in place.

    Rank 0's is on the CPU with its weights, the others' may be on meta: what they hold is rank 0's, sent one tensor at
    a time. Afterwards parameters are fp32 DTensors on `device`; a forward or backward is one of all ranks.
    """
    assert ranks.mesh is not None
    source = dict(policy.named_parameters()) | dict(policy.named_buffers())
    kinds: dict[str, torch.dtype] = ranks.told({name: tensor.dtype for name, tensor in source.items()})
    _check(policy, {name: kinds[name] for name, _ in policy.named_parameters()})
    _to_meta(policy)
    precision = MixedPrecisionPolicy(
        param_dtype=None if policy.dtype == torch.float32 else policy.dtype, reduce_dtype=torch.float32
    )
    for block in _blocks(policy):
        fully_shard(block, mesh=ranks.mesh, mp_policy=precision)
    # The root's weights, embeddings and head, are used first and last: they stay gathered from forward to backward.
    fully_shard(policy, mesh=ranks.mesh, mp_policy=precision, reshard_after_forward=False)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no PREMUL_SUM
            module.set_gradient_divide_factor(1.0)
    policy.to_empty(device=device)
    _fill(policy, source, kinds, ranks.rank)
    policy.dtypes = kinds


@torch.no_grad()
def _fill(policy: Policy, source: Mapping[str, Tensor], kinds: Mapping[str, torch.dtype], rank: int) -> None:
    for name, tensor in [*policy.named_parameters(), *policy.named_buffers()]:
        whole = torch.empty(tensor.shape, dtype=kinds[name], device=tensor.device)
        if rank == 0:
            whole.copy_(source[name])
        dist.broadcast(whole, src=0)
        tensor.copy_(part_of(whole.to(tensor.dtype), tensor))


def gathered(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype`, gathered if it is sharded: then by all ranks in lockstep. Cast first: less is moved."""
    tensor = tensor.detach().to(dtype)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(policy: Policy) -> dict[str, Tensor]:
    """The model's state dict, gathered by all ranks in lockstep, in its own dtypes, on rank 0's CPU; others get {}."""
    found: dict[int, Tensor] = {}  # what is shared stays shared
    state = {}
    for name, tensor in policy.model.state_dict(keep_vars=True).items():
        if id(tensor) not in found:
            found[id(tensor)] = gathered(tensor, policy.dtypes.get(f"model.{name}", tensor.dtype)).cpu()
        state[name] = found[id(tensor)]
        if dist.get_rank():
            state[name] = found[id(tensor)] = tensor.new_empty(0)  # its memory is needed for the next
    return state


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Of what every rank has whole, the shard that belongs beside `like`; all of it where that is no shard."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _blocks(policy: Policy) -> Iterator[nn.Module]:
    """The decoder's layers; of nested ones the outermost."""
    found = [
        (name, module) for name, module in policy.named_modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    for name, module in found:
        if not any(name.startswith(f"{outer}.") for outer, _ in found):
            yield module


def _check(policy: Policy, kinds: dict[str, torch.dtype]) -> None:
    """FSDP computes a block in one dtype; an adapter's fp32 may be computed in the model's, a router's must not."""
    for name, dtype in kinds.items():
        trained_beside = ".base_layer." in name or any(part in name for part in ("lora_", "adapter"))
        if dtype != policy.dtype and not trained_beside:
            raise ModelError(
                f"train.processes: {name} is kept in {dtype} while the model computes in {policy.dtype}, which shards "
                "cannot do; use model.dtype: float32, or train.processes: 1"
            )


def _to_meta(policy: Policy) -> None:
    """Parameters as fp32 without storage, those that are shared still shared; buffers in their dtype."""
    made: dict[int, nn.Parameter] = {}
    for module in policy.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=torch.float32, device="meta")
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to("meta")
