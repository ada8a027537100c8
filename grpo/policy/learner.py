"""The learning half of a run: the policy, its update, its checkpoints, and its weights for the servers.

Over several ranks each has one. What the leader (rank 0) calls is done by all of them: the others `follow`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.diffusion import DiffusionSettings
from grpo.losses.cross_entropy import CrossEntropy
from grpo.policy.adapters import served_weights
from grpo.policy.diffusion import MaskedPolicy
from grpo.policy.diffusion_proof import prove_masked
from grpo.policy.forward import ForwardProof, prove_forward
from grpo.policy.load import causal_lm, prompted
from grpo.policy.moe_balance import Balance
from grpo.policy.names import prediction_heads
from grpo.policy.noise import rms, rounded_once_more
from grpo.policy.optim import MasterAdamW
from grpo.policy.packing.pad import pad
from grpo.policy.packing.probe import device_of, probe_samples
from grpo.policy.perturb import Part, Perturbation
from grpo.policy.policy import Policy
from grpo.policy.routing import Routing, find_routers
from grpo.policy.shard.ranks import ALONE, Ranks
from grpo.policy.shard.shard import shard, whole_state
from grpo.policy.shard.state import load_state, save_state, staged
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.rollout.sync.stream import TensorSpec, WeightStream
from grpo.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

P = ParamSpec("P")
T = TypeVar("T")


def routing_of(policy: Policy) -> Routing:
    """All ranks call it. Raises ModelError: see Routing and find_routers."""
    batch = pad(probe_samples(policy)[:1], [1.0], device_of(policy))
    return Routing(policy.model, policy.asked(find_routers, batch))


def _by_all(method: Callable[Concatenate[Learner, P], T]) -> Callable[Concatenate[Learner, P], T]:
    """Called on the leader, it runs on every rank, with the same arguments."""

    @functools.wraps(method)
    def call(self: Learner, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.by_all(method.__name__, *args):
            return method(self, *args, **kwargs)

    return call


class Learner:
    """
    Args:
        temperature: that the completions are sampled at.
        model: the policy, as `load_model` (and `add_adapter`) made it. With one rank on its device; with several on the
            CPU, on ranks other than 0 maybe without its weights.
        reference: the frozen model of the KL term, alike; None with LoRA (the adapter is switched off) or without KL.
            With train.teacher it is the teacher.
        device: of the shards.
        objective: None: what `config` describes.
        routing_replay: whether samples say which experts their tokens are to go to.
        masked: a masked diffusion model: its mask token, and how losses see it. None: a causal model.
    """

    def __init__(
        self,
        config: GRPOConfig,
        temperature: float,
        model: PreTrainedModel,
        reference: PreTrainedModel | None = None,
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        objective: CrossEntropy | None = None,
        routing_replay: bool = False,
        masked: tuple[int, DiffusionSettings] | None = None,
    ) -> None:
        self.model, self.ranks = model, ranks

        def policy_of(model: PreTrainedModel) -> Policy:
            return MaskedPolicy(model, *masked, config.tokens_per_micro_batch) if masked else Policy(model)

        self._policy = policy_of(model)
        frozen = None if reference is None else policy_of(reference.requires_grad_(False))
        if ranks.size > 1:
            for one in (self._policy, frozen) if frozen else (self._policy,):
                shard(one, ranks, device or torch.device("cpu"))
        balanced = config.router_aux_loss_coef > 0 or config.router_bias_update_rate > 0
        if routing_replay or balanced:  # before packing: to look for routers takes padded rows
            for one in [self._policy, frozen] if frozen and not config.teacher else [self._policy]:
                one.routing = routing_of(one)
        self.forward: ForwardProof = (
            prove_masked(self._policy, config.dropout)
            if isinstance(self._policy, MaskedPolicy)
            else prove_forward(self._policy, config.packing, config.dropout)
        )
        if frozen is not None and config.teacher:
            prove_forward(frozen, config.packing)  # a model of its own, with a head of its own
        elif frozen is not None:
            frozen.head = self._policy.head
        balance = Balance(self._policy, config, ranks) if balanced else None
        optimizer = MasterAdamW(self._policy.parameters(), **config.optimizer)
        self._update = PolicyUpdate(
            config, temperature, self._policy, optimizer, frozen, ranks, objective, self.forward, balance
        )
        self._served = served_weights(self._policy)
        self._steered = balance.biases if balance else {}
        self.perturbation = Perturbation(dict(self._policy.model.named_parameters()), self._steered)
        self._calling = threading.Lock()
        self._writing: Future[None] = Future()  # this rank's part of the last checkpoint
        self._writing.set_result(None)

    @property
    def padded(self) -> str | None:
        """Why micro-batches are padded; None where they are packed."""
        return self._update.padded

    @property
    def rows(self) -> str:
        """What a row of a micro-batch is, in words."""
        if isinstance(self._policy, MaskedPolicy):
            return "a row each pass"
        return "padded rows" if self.padded else "packed rows"

    @property
    def routing(self) -> Routing | None:
        """Of a mixture of experts, where its choices matter."""
        return self._policy.routing

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        return int(causal_lm(self.model).config.get_text_config().vocab_size)

    def sentences(self, path: str) -> Iterator[str]:
        """What a run is to say of how it trains the checkpoint at `path`."""
        if self.padded:
            yield f"training computes padded rows, each prompt once a completion: {self.padded}"
        if heads := prediction_heads(path, int(causal_lm(self.model).config.get_text_config().num_hidden_layers)):
            yield (
                f"{len(heads)} tensors of the checkpoint predict tokens further ahead (such as {heads[0]}): they are "
                "left alone, neither trained nor sent nor in this run's checkpoints"
            )
        if why := self.forward.own_logits:
            yield f"training holds all logits, tokens x vocabulary: {why}"

    @property
    def skips_zero_advantage(self) -> bool:
        """Whether completions without advantage have no gradient, so that leaving them out is exact."""
        return self._update.objective.skips_zero_advantage

    # -- What all ranks do ----------------------------------------------------------------------------------------

    @_by_all
    def update(self, step: int, batch: TrainBatch) -> dict[str, float]:
        """One optimizer batch, see PolicyUpdate.run."""
        return self._update.run(step, batch)

    @_by_all
    def kl_penalties(self, samples: Sequence[Sample]) -> list[float]:
        """See PolicyUpdate.kl_penalties."""
        return self._update.kl_penalties(samples)

    @_by_all
    def cross_entropy(self, samples: Sequence[Sample]) -> float:
        """See PolicyUpdate.cross_entropy."""
        return self._update.cross_entropy(samples)

    @_by_all
    def measured(self, samples: Sequence[Sample], temperature: float | None = None) -> list[Tensor]:
        """See PolicyUpdate.measured."""
        return self._update.measured(samples, temperature)

    @_by_all
    def noise(self, samples: Sequence[Sample], eps: float | None = None) -> float:
        """Root mean square, in nats, of what one more rounding a block changes of their log-probs (noise.py)."""
        plain_T = torch.cat(self._update.measured(samples))
        with rounded_once_more(self._policy.model, eps):
            return rms(torch.cat(self._update.measured(samples)) - plain_T)

    @_by_all
    def flip(self, parts: Sequence[Part]) -> None:
        """Perturb trained tensors, or put them back to the bit; see perturb.py."""
        self.perturbation.flip(parts)

    @_by_all
    def exchange(self, one: str, other: str) -> None:
        """Two blocks of the model change places, or go back to them; see perturb.py."""
        self.perturbation.exchange(one, other)

    @_by_all
    def save_model(self, folder: Path) -> None:
        """The policy as a transformers or peft folder, written by the leader."""
        if self.ranks.size == 1:
            self.model.save_pretrained(folder)
            return
        state = whole_state(self._policy)
        if self.ranks.rank == 0:
            self._write_model(folder, state)

    @_by_all
    def save(self, folder: Path, state_folder: Path) -> Callable[[], None]:
        """Keep the policy in `folder`, and in `state_folder` what resuming needs beside it: fp32 masters, the
        optimizer's moments, a synced reference.

        When this returns, both are copied and the update may go on; the state is being written by all ranks. The leader
        has then to call, in any thread, what is returned: it writes the model and waits for the state.
        """
        self._writing.exception()  # one copy at a time; the leader knows what has failed
        tensors, model = self._update.tensors(), {}
        if self.ranks.size > 1:
            copies, model = staged(tensors), whole_state(self._policy)
        else:
            # What is not trained stays as it is. What is trained in fp32 is its own master: copied once.
            model = self.model.state_dict(keep_vars=True)
            steered = set(map(id, self._steered.values()))
            moving = {
                name: one for name, one in model.items() if getattr(one, "requires_grad", False) or id(one) in steered
            }
            copies = staged({**tensors, **{f"model.{name}": tensor for name, tensor in moving.items()}})
            model |= {name: copies.pop(f"model.{name}") for name in moving}
        self._writing = writing = save_state(copies, state_folder, self.ranks)
        if early := prompted(self.model):  # peft computes the vectors that it saves: from what is trained on meanwhile
            self._write_model(folder, model)

        def write() -> None:
            writing.result()
            if not early:
                self._write_model(folder, model)

        return write

    def _write_model(self, folder: Path, state: dict[str, Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=state)
        if self.ranks.size > 1 and (lm := causal_lm(self.model)) is self.model:
            lm.config.dtype = self._policy.dtype  # transformers looks at the shards, which are wider
            lm.config.save_pretrained(folder)

    @_by_all
    def load_state(self, folder: Path) -> None:
        """Put state and weights as they were, whatever the number of ranks that saved them."""
        load_state(self._update.tensors(), folder, self.ranks)
        self._update.loaded()

    @property
    def weights(self) -> WeightStream:
        """What the servers are to sample with; read by the leader alone, whom the others then help."""
        return self._served if self.ranks.size == 1 else LedWeights(self, self._served)

    def read_weights(self) -> None:
        """The others' part in it."""
        for _ in getattr(self._served, "unconverted", self._served):
            pass

    # -- Leading and following ------------------------------------------------------------------------------------

    def follow(self) -> None:
        """On every rank but the leader: do what the leader does, until it ends."""
        said: tuple[str, tuple[Any, ...]] | None
        while (said := self.ranks.told()) is not None:
            name, args = said
            with suppress(FloatingPointError):  # the leader has it, too, and decides
                getattr(self, name)(*args)
        self._writing.exception()  # a thread must not use what is being taken down

    @contextmanager
    def by_all(self, name: str, *args: object) -> Iterator[None]:
        """While the leader does what its method of that name does, the others call the method.

        One after the other, whichever thread asks: collectives must come in one order everywhere.
        """
        with self._calling:
            if self.ranks.size > 1 and self.ranks.rank == 0:
                self.ranks.told((name, args))
            yield


class LedWeights:
    """The leader's WeightStream of a sharded policy: while it is read, all ranks read."""

    def __init__(self, learner: Learner, served: WeightStream) -> None:
        self._learner, self._served = learner, served

    @property
    def unconverted(self) -> LedWeights:
        return LedWeights(self._learner, getattr(self._served, "unconverted", self._served))

    @property
    def specs(self) -> Sequence[TensorSpec]:
        return self._served.specs

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        with self._learner.by_all("read_weights"):
            yield from self._served
