"""What keeps a mixture's experts evenly used: a loss of its routers, or a bias that steers their choice.

    loss   coef E sum_e f_e P_e                      Switch Transformer, arXiv 2101.03961, equations 4 to 6
    bias   b_e <- b_e + rate sign(mean load - load_e)     DeepSeek-V3, arXiv 2412.19437; arXiv 2408.15664

f_e is the share of choices that fall on expert e and P_e its mean probability, over all layers, as transformers'
`load_balancing_loss_func` computes them; load_e is the number of choices of one layer. Both are counted over the tokens
that are trained: the positions that predict them, in the whole optimizer batch, whatever the micro-batches and ranks.
f_e has no gradient, so the loss of a batch is the sum of what its micro-batches add, once f is known: that takes one
more forward of each. The bias is in the choice alone and has no gradient; it is moved after each optimizer step.

Departure from both papers: a completion that is left out of the batch, as it has no advantage, is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grpo.config import ModelError, TrainSettings
from grpo.policy.load import causal_lm
from grpo.policy.policy import Policy
from grpo.policy.shard.ranks import Ranks
from grpo.policy.shard.shard import part_of
from grpo.types import PackedBatch

BIAS = "e_score_correction_bias"  # transformers' and the checkpoints' name of it


def score_biases(model: nn.Module) -> dict[str, Tensor]:
    """The biases that steer the choice of experts, by name, in the order of the layers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name.rpartition(".")[2] == BIAS}


class Balance:
    """Of one policy, which has a `routing`. Call in this order for each optimizer step:

        balance.begin(micros, temperature)
        for micro in micros: ...forward...; loss = balance.add(micro)     # to the loss; None: nothing to add
        metrics = balance.end()

    Raises ModelError if the model has no such loss, or no such bias.
    """

    def __init__(self, policy: Policy, config: TrainSettings, ranks: Ranks) -> None:
        assert policy.routing is not None
        self._policy, self._routing, self._ranks = policy, policy.routing, ranks
        self._coef, self._rate = config.router_aux_loss_coef, config.router_bias_update_rate
        self._logits: tuple[Tensor, ...] = ()  # of the last forward, one a layer, (N, E)
        lm: Any = causal_lm(policy.model)
        self._device = next(lm.parameters()).device
        if self._coef:
            _check_loss(lm)
            decoder = lm.get_decoder()
            decoder.register_forward_pre_hook(_with_logits, with_kwargs=True)
            decoder.register_forward_hook(self._keep)
        self.biases = score_biases(lm) if self._rate else {}
        if self._rate and len(self.biases) != len(self._routing.routers):
            raise ModelError(
                f"train.router_bias_update_rate: {lm.config.model_type} has {len(self.biases)} biases called {BIAS} "
                f"and {len(self._routing.routers)} routers, expected one each, as DeepSeek-V3; leave it out, or use "
                "train.router_aux_loss_coef"
            )
        for bias in self.biases.values():
            bias.requires_grad_(False)

    @property
    def _experts(self) -> int:
        return self._routing.routers[0].experts

    def begin(self, micros: Sequence[PackedBatch], temperature: float) -> None:
        self._load_LE = torch.zeros(len(self._routing.routers), self._experts, device=self._device)
        self._loss = torch.zeros((), device=self._device)
        if not self._coef:
            return
        chosen_E = torch.zeros(self._experts, device=self._device)
        for micro in micros:
            self._policy.measured(micro, temperature)
            for probs_TE in self._probs(micro):
                chosen_E += self._counted(probs_TE.topk(self._routing.top_k).indices)
        chosen_E = self._summed(chosen_E)
        self._rows = max(chosen_E.sum().item() / self._routing.top_k, 1.0)  # tokens x layers
        self._share_E = (chosen_E / self._rows).to(self._device)

    def add(self, micro: PackedBatch) -> Tensor | None:
        """This micro-batch's part of the loss, after its forward; its choices are counted."""
        at = _trained_at(micro)
        for load_E, router in zip(self._load_LE, self._routing.routers, strict=True):
            load_E += self._counted(self._routing.made[router.layer][at])
        if not self._coef:
            return None
        mass_E = torch.stack([probs_TE.sum(0) for probs_TE in self._probs(micro)]).sum(0)
        loss = self._experts * (self._share_E * mass_E).sum() / self._rows
        self._loss += loss.detach()
        return self._coef * loss

    @torch.no_grad()
    def end(self) -> dict[str, float]:
        """Moves the biases. Metrics: router_loss, before its coefficient; expert_load_max, the load of a layer's
        busiest expert over the mean of its experts, mean of the layers."""
        load_LE = self._summed(self._load_LE)
        mean_L1 = load_LE.mean(1, keepdim=True)
        for i, bias in enumerate(self.biases.values()):
            moved = self._rate * torch.sign(mean_L1[i] - load_LE[i]).view(bias.shape)
            bias.add_(part_of(moved.to(bias.device, bias.dtype), bias))  # Ernie's is a parameter: sharded
        metrics = {"expert_load_max": (load_LE.amax(1, keepdim=True) / mean_L1.clamp(min=1e-9)).mean().item()}
        return metrics | ({"router_loss": self._summed(self._loss).item()} if self._coef else {})

    def _counted(self, chosen: Tensor) -> Tensor:
        return torch.bincount(chosen.flatten(), minlength=self._experts)

    def _summed(self, values: Tensor) -> Tensor:
        """Over the ranks; on the CPU."""
        return torch.stack(self._ranks.gathered(values.cpu())).sum(0)

    def _keep(self, decoder: nn.Module, args: Any, output: Any) -> None:
        self._logits = tuple(logits for logits in output.get("router_logits") or () if logits is not None)
        if len(self._logits) != len(self._routing.routers):
            raise ModelError(
                f"train.router_aux_loss_coef: the model returns the logits of {len(self._logits)} routers and has "
                f"{len(self._routing.routers)}; leave it out"
            )

    def _probs(self, micro: PackedBatch) -> list[Tensor]:
        """Of each layer, (trained tokens, E), in fp32."""
        at = _trained_at(micro)
        return [torch.softmax(logits.reshape(-1, self._experts)[at].float(), dim=-1) for logits in self._logits]


def _with_logits(decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"output_router_logits": True}


def _trained_at(micro: PackedBatch) -> Tensor:
    """Of the forward's tokens, row after row, those that predict a token that is trained; (T',)."""
    at_T = micro.row_T * micro.input_ids_RL.shape[1] + micro.col_T
    return at_T[micro.weight_T != 0]


def _check_loss(lm: nn.Module) -> None:
    if not hasattr(sys.modules[type(lm).__module__], "load_balancing_loss_func"):
        kind = getattr(lm.config, "model_type", type(lm).__name__)
        raise ModelError(
            f"train.router_aux_loss_coef: {kind} has no load-balancing loss in transformers; leave it out"
            + (", or use train.router_bias_update_rate" if score_biases(lm) else "")
        )
