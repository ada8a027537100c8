"""The records that flow through a training step, in order.

    Prompt -> Completion -> Group -> Sample -> PackedBatch

Each is frozen; lists that hold one entry a token have one length, checked where the record is made.

Dimension suffixes of tensors, everywhere in `grpo`:

    T  tokens of a micro-batch (trained    R  rows of a micro-batch
       ones, or all of a packed row)       L  longest row of a micro-batch; layers of the decoder
    C  tokens of one chunk of T            V  vocabulary
    G  completions of one group            H  hidden size
    S  segments attended to together       B  sequences being decoded
    N  longest of them; all tokens of a    K  experts that a token goes to
       forward, row after row              E  experts of a layer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rewards.types import Score

if TYPE_CHECKING:
    import numpy as np
    import torch

    from grpo.policy.packing.layout import Layout

FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]  # {"role": "user", "content": "higher"}
T = TypeVar("T")


def _same_length(record: str, **lists: Any) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{record}: per-token lists must have one length, got {lengths}")


def _trained(values: Iterable[T], trained: tuple[bool, ...] | None) -> list[T]:
    return list(values) if trained is None else list(compress(values, trained))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem, rendered for the model.

    Example: Prompt(id="arithmetic/train/17", text="12+30=<think>", token_ids=(5, 6, 9, 7, 4, 20),
                    answer="42", prefill="<think>", columns={"level": 2})
    """

    id: str  # unique in the run, stable between runs
    text: str  # what the model sees, after the template
    token_ids: tuple[int, ...]
    answer: str  # gold answer, as the verifier takes it
    prefill: str = ""  # the end of `text` that already belongs to the assistant's turn
    columns: Mapping[str, Any] = field(default_factory=dict)  # every other column of the row
    messages: tuple[Message, ...] = ()  # of a chat template: the conversation that `text` renders
    task: str = ""  # of a run with several, which one it is of


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. temperature 0 is greedy (then n must be 1)."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off


@dataclass(frozen=True, slots=True)
class Episode:
    """What the model and an environment said to each other, from the model's first reply to its last.

    Example: Episode(messages=({"role": "assistant", "content": "5"}, {"role": "user", "content": "higher"},
                               {"role": "assistant", "content": "8"}),
                     ended="done", score=Score(1.0, "8", "correct", "found"))
    """

    messages: tuple[Message, ...]
    ended: Literal["done", "turns", "tokens"]  # by the environment; at the limit of turns; without room for more tokens
    score: Score | None = None  # the environment's own; None: it has none

    @property
    def replies(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "assistant"]

    @property
    def turns(self) -> int:
        """Replies of the model."""
        return len(self.replies)


@dataclass(frozen=True, slots=True)
class Unmasking:
    """In which order a masked diffusion model wrote a completion (grpo/rollout/diffusion.py).

    A pass shows the model the prompt, the tokens of all passes before, and mask tokens for the rest of `canvas`
    positions; the tokens of one pass are drawn independently.

    Example: Unmasking(passes=(1, 0, 2), canvas=4), of which the last block was not written
    """

    passes: tuple[int, ...]  # of each token, from 0, without a gap
    canvas: int  # positions after the prompt

    def __post_init__(self) -> None:
        if set(self.passes) != set(range(max(self.passes, default=-1) + 1)) or len(self.passes) > self.canvas:
            raise ValueError(f"Unmasking: expected passes 0, 1, ... of at most {self.canvas} tokens, got {self.passes}")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for one prompt; of several turns, with what the environment said in between.

    `logprobs` are the sampled tokens' log-probabilities under the distribution they were drawn
    from (temperature applied); for greedy sampling, under the model at temperature 1.
    `versions` says for each token which weights made it. The end-of-sequence token is included.
    Tokens that are not the model's have no log-prob (NaN) and the version of the model's token before.

    Example: Completion(token_ids=(8, 3), logprobs=(-0.1, -0.02), versions=(4, 4), text="42",
                        finish_reason="stop")
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    text: str  # of several turns, the model's last reply
    finish_reason: FinishReason  # "length": cut at max_tokens
    trained: tuple[bool, ...] | None = None  # which tokens the model wrote; None: all
    episode: Episode | None = None  # of an environment
    # (tokens of prompt and completion but the last, L, K): the experts that each went to, where the engine was asked
    experts: np.ndarray | None = field(default=None, compare=False)
    unmasking: Unmasking | None = None  # None: written from left to right

    def __post_init__(self) -> None:
        _same_length(
            "Completion",
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            trained=self.token_ids if self.trained is None else self.trained,
            unmasking=self.token_ids if self.unmasking is None else self.unmasking.passes,
        )

    @property
    def written(self) -> list[int]:
        """The tokens that the model wrote."""
        return _trained(self.token_ids, self.trained)


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Ask an engine for `n` completions of one prompt.

    `seed` makes the in-process engine's samples repeatable; engines that cannot take one ignore it.
    """

    prompt: Prompt
    n: int
    sampling: Sampling
    seed: int = 0
    experts: bool = False  # whether the completions are to say which experts their tokens went to


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt, in no particular order.

    `failures` counts the completions asked for that never came, by cause, e.g. {"timeout": 1}:
    they are not scored 0, they are absent. `reasons` says more about one of each cause, where there is more to say.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    failures: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RewardsOfGroup:
    """What a group's completions earned, in their order; None: not scored, or the part does not apply.

    `total_G` is the weighted sum of `parts`, unless a verdict failed (None) or a control replaced it.

    Example: RewardsOfGroup(total_G=(1.2, 0.2, None), parts={"accuracy": (1.0, 0.0, None), "format": (1.0, 1.0, 0.0)},
                            weights={"accuracy": 1.0, "format": 0.2})
    """

    total_G: tuple[float | None, ...]
    parts: Mapping[str, tuple[float | None, ...]]  # each reward's own values, before its weight
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion ready to be trained on.

    Example: Sample(prompt_ids=(5, 6), completion_ids=(8, 3), sampler_logprobs=(-0.1, -0.02), advantage=0.7)
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    advantage: float
    staleness: tuple[int, ...] | None = None  # optimizer steps since the weights that made each token; None: all 0
    trained: tuple[bool, ...] | None = None  # which tokens of the completion have a loss; None: all
    experts: np.ndarray | None = field(default=None, compare=False)  # as of the Completion
    unmasking: Unmasking | None = None  # None: written from left to right

    def __post_init__(self) -> None:
        if self.experts is not None and len(self.experts) != self.length - 1:
            raise ValueError(
                f"Sample: {self.length} tokens have {self.length - 1} choices of experts, got {len(self.experts)}"
            )
        _same_length(
            "Sample",
            completion_ids=self.completion_ids,
            sampler_logprobs=self.sampler_logprobs,
            staleness=self.completion_ids if self.staleness is None else self.staleness,
            trained=self.completion_ids if self.trained is None else self.trained,
            unmasking=self.completion_ids if self.unmasking is None else self.unmasking.passes,
        )

    @classmethod
    def of(
        cls, prompt: Prompt, completion: Completion, advantage: float = 0.0, staleness: tuple[int, ...] | None = None
    ) -> Sample:
        return cls(
            prompt.token_ids,
            completion.token_ids,
            completion.logprobs,
            advantage,
            staleness,
            completion.trained,
            completion.experts,
            completion.unmasking,
        )

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def of_trained(self, values: Iterable[T]) -> list[T]:
        """Of one value for each token of the completion, those of the trained tokens."""
        return _trained(values, self.trained)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch of whole completions, its trained tokens addressed flat.

    hidden_RLH[row_T, col_T] is the position that predicts target_T; tokens that are not trained are input alone. With a
    `layout` there is one row, packed: a prompt is there once, and the first token of each of its completions is
    predicted from its one last position. Without one, each row is a prompt and a completion, padded on the right; of a
    masked model, one pass over a completion, where a position predicts itself (grpo/policy/diffusion.py).
    """

    input_ids_RL: torch.Tensor
    row_T: torch.Tensor
    col_T: torch.Tensor
    target_T: torch.Tensor
    sequence_T: torch.Tensor  # which completion of the micro-batch: 0 .. n_sequences - 1
    n_sequences: int
    sampler_logprobs_T: torch.Tensor
    advantage_T: torch.Tensor
    weight_T: torch.Tensor  # each token's weight in the loss, see grpo/losses/normaliser.py
    staleness_T: torch.Tensor | None = None  # of each token, see Sample; None: all 0
    layout: Layout | None = None
    experts_NLK: torch.Tensor | None = None  # that each input token goes to, -1: its router chooses; None: so do all
