"""Which experts each token goes to: recorded where it is sampled, and replayed where it is trained.

Routing replay (R3, arXiv 2510.11370): rounding lets server and trainer route some tokens to other experts, which moves
their log-probs by far more than rounding does. Replayed, the trainer's router takes the server's experts; how much each
one counts is still computed, with its gradient, by the router itself:

    E_t = the server's choice,   w_e = the router's own weight of e in E_t   (its softmax, sigmoid, normalisation)

A router is found by what it does: of the modules whose forward calls topk, those that choose among a number that does
not depend on the number of tokens. While such a module computes, its topk answers with the choice that is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from grpo.config import ModelError
from grpo.policy.load import FAILS, causal_lm
from grpo.types import Sample

OWN = -1  # in the place of an expert: the router chooses by itself
_LENGTHS = (5, 7)  # tokens of the two rows that routers are looked for with
_TOPK = (torch.topk, torch.Tensor.topk)


@dataclass(frozen=True, slots=True)
class Router:
    """Of one decoder layer. Example: Router("model.layers.1.mlp.gate", layer=1, experts=8, top_k=2)"""

    name: str
    layer: int
    experts: int
    top_k: int


def find_routers(model: nn.Module) -> list[Router]:
    """In the order of the layers; none in a model without experts. Raises ModelError if they are of no known form."""
    lm: Any = causal_lm(model)
    device = next(lm.parameters()).device
    seen = [_choices(lm, torch.arange(n, device=device)[None] % 3) for n in _LENGTHS]
    found: list[Router] = []
    for name, (rows, experts, top_k) in seen[0].items():
        if rows == _LENGTHS[0] and seen[1].get(name) == (_LENGTHS[1], experts, top_k):
            layer = re.search(r"\.(\d+)(\.|\Z)", name)
            found.append(Router(name, int(layer[1]) if layer else -1, experts, top_k))
    layers = [router.layer for router in found]
    if -1 in layers or len(set(layers)) < len(layers) or len({(one.experts, one.top_k) for one in found}) > 1:
        raise ModelError(
            f"model.path: the routers of {lm.config.model_type} are not one a layer, of as many experts each ("
            f"{', '.join(one.name for one in found[:3])} ...): their choice cannot be told apart. Leave out "
            "rollout.routing_replay and what balances experts"
        )
    return sorted(found, key=lambda one: one.layer)


@torch.no_grad()
def _choices(lm: Any, input_ids: Tensor) -> dict[str, tuple[int, int, int]]:
    """Name of each module that itself calls topk -> (rows, width, k) of its last call."""
    inside: list[str] = []
    found: dict[str, tuple[int, int, int]] = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in _TOPK and inside:
                scores, k = _asked(args, kwargs or {})
                found[inside[-1]] = scores.numel() // scores.shape[-1], scores.shape[-1], k
            return func(*args, **(kwargs or {}))

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for name, module in lm.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        with Watch():
            lm(input_ids=input_ids, use_cache=False)
    except FAILS as error:
        raise ModelError(
            f"model.path: {lm.config.model_type} fails on {input_ids.shape[1]} tokens, where its routers were looked "
            f"for ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, int]:
    """Of a call of topk: what it chooses from, and how many."""
    scores = args[0] if args else kwargs["input"]
    return scores, int(args[1] if len(args) > 1 else kwargs["k"])


class Routing:
    """What the routers of `model` choose. Raises ModelError if it has none, or `find_routers` does.

        routing.given = experts_NLK        # or None: the routers choose
        model(...)
        routing.made[layer]                # (N, K), of the last forward

    N are the tokens of a forward, all rows one after the other; L the decoder's layers, K the experts of a token.
    """

    def __init__(self, model: nn.Module, routers: list[Router]) -> None:
        lm = causal_lm(model)
        if not routers:
            raise ModelError(
                f"model.path: {lm.config.model_type} has no router that chooses experts: leave out "
                "rollout.routing_replay, train.router_aux_loss_coef and train.router_bias_update_rate"
            )
        self.routers = routers
        self.layers = int(lm.config.get_text_config().num_hidden_layers)
        self.given: Tensor | None = None
        self.made: dict[int, Tensor] = {}
        self.counts: list[Tensor] = []  # of each router: given choices that it would not have made; all given ones
        modules = dict(lm.named_modules())
        for router in routers:
            modes: list[_Chosen] = []

            def enter(*_: Any, router: Router = router, modes: list[_Chosen] = modes) -> None:
                modes.append(_Chosen(self, router))
                modes[-1].__enter__()

            def leave(*_: Any, modes: list[_Chosen] = modes) -> None:
                modes.pop().__exit__(None, None, None)

            modules[router.name].register_forward_pre_hook(enter)
            modules[router.name].register_forward_hook(leave, always_call=True)

    def check(self, samples: Sequence[Sample]) -> None:
        """Raises ModelError if a sample's experts are none of this model's."""
        shape, most = (self.layers, self.top_k), self.routers[0].experts
        for experts in (sample.experts for sample in samples if sample.experts is not None):
            if experts.shape[1:] != shape or not 0 <= experts.min() <= experts.max() < most:
                raise ModelError(
                    f"rollout.routing_replay: the sampler's experts are {experts.shape[1:]} of {experts.min()} to "
                    f"{experts.max()} for each token, expected {shape} (layers, experts of a token) below {most}: it "
                    "serves another model, or counts its layers otherwise; leave it out"
                )

    @property
    def top_k(self) -> int:
        return self.routers[0].top_k

    def difference(self) -> Tensor:
        """(choices of the sampler that the routers would not have made, all of them) since it was asked last; (2,)."""
        counts, self.counts = self.counts, []
        return torch.stack(counts).sum(0) if counts else torch.zeros(2, dtype=torch.long)

    def stacked(self) -> Tensor:
        """(N, L, K) of the last forward, as vLLM lays them out: 0 in layers without a router."""
        like = self.made[self.routers[0].layer]
        found = torch.zeros(len(like), self.layers, self.top_k, dtype=torch.int16, device=like.device)
        for layer, chosen in self.made.items():
            found[:, layer] = chosen.to(torch.int16)
        return found


class _Chosen(TorchFunctionMode):
    """While the router computes, its topk answers with the choice that is given."""

    def __init__(self, routing: Routing, router: Router) -> None:
        super().__init__()
        self._routing, self._router = routing, router

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = func(*args, **(kwargs or {}))
        if func not in _TOPK:
            return own
        scores, k = _asked(args, kwargs or {})
        if (scores.shape[-1], k) != (self._router.experts, self._router.top_k):
            return own
        chosen, routing = own.indices, self._routing
        if routing.given is not None:
            given = routing.given[:, self._router.layer].reshape(chosen.shape)
            is_given = given != OWN
            would = (given[..., :, None] == chosen[..., None, :]).any(-1)
            routing.counts.append(torch.stack([(is_given & ~would).sum(), is_given.sum()]))
            chosen = torch.where(is_given, given, chosen)
            own = torch.return_types.topk((scores.gather(-1, chosen), chosen))
        routing.made[self._router.layer] = chosen.detach().reshape(-1, k)
        return own
