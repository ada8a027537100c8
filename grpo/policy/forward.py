"""The way in which a policy's log-probs are computed: the fastest that computes what the model itself does.

    head        chunked (logprobs.py), if the model's head is of its form (head.py); else the model's own logits
    attention   packed, each prompt once (packing/attention.py), if its log-probs are the model's own; else padded rows
    training    the same numbers in training mode as in evaluation mode: what the server computes has no dropout

Each is compared with the model's own forward, to the noise of its dtype (noise.py), on two small groups of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.config import ModelError
from grpo.policy.head import measure_head
from grpo.policy.load import FAILS, causal_lm, prompted, training_mode
from grpo.policy.noise import Noise, measure_noise
from grpo.policy.packing.pack import pack
from grpo.policy.packing.pad import pad
from grpo.policy.packing.probe import device_of, probe_samples, use_packed_attention
from grpo.policy.policy import Policy
from grpo.types import PackedBatch, Sample

BEFORE = "vectors of the adapter stand before every row"


@dataclass(frozen=True, slots=True)
class ForwardProof:
    """What was chosen, and how far it is from the model's own forward, in nats (root mean square).

    `own_logits`, `padded`: why the plain way was taken; None where the fast one computes the same.
    """

    head: str
    own_logits: str | None
    padded: str | None  # of a masked model: None, as nothing is padded there either
    noise: float
    difference: float
    training: float | None  # training mode against evaluation mode; None: dropout was asked for


def prove_forward(policy: Policy, packing: bool, dropout: bool = False) -> ForwardProof:
    """Choose the way, and leave the policy in evaluation mode.

    Args:
        packing: whether packed attention may be taken.
        dropout: whether the recipe asks for dropout in training.

    Raises ModelError if training mode computes something else than evaluation mode, without being asked to.
    """
    policy.eval()
    samples = probe_samples(policy)
    if (noise := measure_noise(policy, samples)).plain_T is not None:
        causal_lm(policy.model).set_attn_implementation("eager")  # the other leaves out what its kernel does not have
        noise = Noise(noise.plain_T, noise.nats, policy.dtype)
    _check_batches(policy, samples, noise)
    padded_batch = pad(samples, [1.0] * len(samples), device_of(policy))
    own_logits = _choose_head(policy, noise, padded_batch)
    padded: str | None = "train.dropout: true" if dropout else None if packing else "train.packing: false"
    if padded is None:
        padded = BEFORE if prompted(policy.model) else use_packed_attention(policy, noise)
    batch = pack(samples, [1.0] * len(samples), device_of(policy)) if padded is None else padded_batch
    evaluated_T = policy.measured(batch, 1.0)[0]
    training = None if dropout else training_difference(policy, batch, noise, evaluated_T)
    head = "its own logits" if policy.head is None else str(policy.head)
    return ForwardProof(head, own_logits, padded, noise.nats, noise.difference(evaluated_T), training)


def training_difference(policy: Policy, batch: PackedBatch, noise: Noise, evaluated_T: Tensor) -> float:
    """How far, in nats, the log-probs of training mode are from those of evaluation mode, which is left on.

    Raises ModelError if that is beyond the noise.
    """
    training_mode(policy)
    difference = Noise(evaluated_T, noise.nats, policy.dtype).difference(policy.measured(batch, 1.0)[0])
    policy.eval()
    if not difference <= noise.bound:
        raise ModelError(
            f"dropout: in training the model's log-probs are {difference:.2g} nats away from those without training "
            f"mode, expected at most {noise.bound:.2g}: something random is computed that sampling does not compute. "
            "Set every dropout of the model's config.json to 0, or ask for it with train.dropout: true"
        )
    return difference


def _check_batches(policy: Policy, samples: Sequence[Sample], noise: Noise) -> None:
    """Raises ModelError if a token's log-prob depends on the other rows of its batch, or on what it is padded with."""
    middle, device = len(samples) // 2, device_of(policy)
    parts = [pad(some, [1.0] * len(some), device) for some in (samples[:middle], samples[middle:])]
    if difference := noise.exceeded(torch.cat([policy.own_logprobs(part, 1.0) for part in parts])):
        raise ModelError(
            f"model.path: its log-probs of the same tokens differ between two batches by {difference}: a token depends "
            "on what stands behind it (a model that reads both ways, as BERT) or on the other rows of its batch, and "
            "no server computes the same. Expected a causal language model"
        )


def _choose_head(policy: Policy, noise: Noise, batch: PackedBatch) -> str | None:
    """Set `policy.head`; returns why it is None."""
    if prompted(policy.model):
        policy.head = None
        return BEFORE
    try:
        policy.head = policy.asked(lambda model: measure_head(model, batch.input_ids_RL[:1]), batch)
        chunked_T = policy.measured(batch, 1.0)[0]
    except FAILS as error:  # OtherHeadError, too
        policy.head = None
        return str(error).partition("\n")[0]
    if difference := noise.exceeded(chunked_T):
        why, policy.head = f"log-probs by its head, {policy.head}, differ from its own by {difference}", None
        return why
    return None
