"""What can be proven of a masked model before the first step: the counterpart of forward.py.

    reads both ways   what stands behind a masked position changes its log-probs; else it is a causal model
    rows              log-probs do not depend on the other rows of a batch
    head              only the positions that are asked for go through the output layer, if that gives the same
    training          the same numbers in training mode as in evaluation mode

That the server (here: the engine in this process) computes what is trained is proven as for every model, by its own
samples: each token's log-prob under the input of its own pass (proof.py). Not proven: that a position predicts itself
and not the next one, which of two right computations nobody can see without knowing what the weights were trained for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo.config import ModelError
from grpo.policy.diffusion import MaskedPolicy
from grpo.policy.forward import ForwardProof, training_difference
from grpo.policy.head import OtherHeadError
from grpo.policy.load import FAILS, causal_lm, prompted
from grpo.policy.logprobs import PLAIN
from grpo.policy.noise import Noise, measure_noise
from grpo.policy.packing.probe import device_of
from grpo.types import Sample, Unmasking

PROMPT, WRITTEN, SAMPLES = 7, 6, 4


def prove_masked(policy: MaskedPolicy, dropout: bool = False) -> ForwardProof:
    """Choose the way, and leave the policy in evaluation mode. `dropout`: whether the recipe asks for it in training.

    Raises ModelError if what is loaded is no masked model, or computes what no sampler could.
    """
    policy.eval()
    if prompted(policy.model):
        raise ModelError("model.adapter: vectors before the prompt are not for masked models; use model.lora")
    samples = probe(policy)
    noise = measure_noise(policy, samples)
    _check_both_ways(policy, samples)
    _check_rows(policy, samples, noise)
    batch = policy.batch(samples, [1.0] * len(samples), device_of(policy))
    own_logits = _choose_head(policy, noise, samples)
    evaluated_T = policy.measured(batch, 1.0)[0]
    training = None if dropout else training_difference(policy, batch, noise, evaluated_T)
    head = "all logits" if own_logits else "of written positions"
    return ForwardProof(head, own_logits, None, noise.nats, noise.difference(evaluated_T), training)


def probe(policy: MaskedPolicy) -> list[Sample]:
    """Random prompts and completions of one length, in which the first token is written last; the same for everybody.

    One of three blocks is not written, so that masks stand behind what is.
    """
    vocabulary = int(causal_lm(policy.model).config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        drawn = torch.randint(vocabulary - 1, (n,), generator=generator)
        return tuple((drawn + (drawn >= policy.mask_id)).tolist())  # any but the mask token

    unmasking = Unmasking((WRITTEN - 1, *range(WRITTEN - 1)), WRITTEN + WRITTEN // 2)
    zeros = (0.0,) * WRITTEN
    return [Sample(tokens(PROMPT), tokens(WRITTEN), zeros, 0.0, unmasking=unmasking) for _ in range(SAMPLES)]


def _own(policy: MaskedPolicy, samples: Sequence[Sample]) -> torch.Tensor:
    return policy.own_logprobs(policy.batch(samples, [1.0] * len(samples), device_of(policy)), 1.0)


def _check_both_ways(policy: MaskedPolicy, samples: Sequence[Sample]) -> None:
    """The first token, written last, is predicted from what stands behind it."""
    first = torch.arange(0, len(samples) * WRITTEN, WRITTEN)
    others = [
        Sample(one.prompt_ids, (one.completion_ids[0], *other.completion_ids[1:]), one.sampler_logprobs, 0.0,
               unmasking=one.unmasking)
        for one, other in zip(samples, [*samples[1:], samples[0]], strict=True)
    ]  # fmt: skip
    if torch.equal(_own(policy, samples)[first], _own(policy, others)[first]):
        name = type(causal_lm(policy.model)).__name__
        raise ModelError(
            f"model.path: what stands behind a position changes nothing of what {name} says of it: it reads from left "
            "to right; engine: diffusion needs a masked language model; use engine: vllm, or transformers"
        )


def _check_rows(policy: MaskedPolicy, samples: Sequence[Sample], noise: Noise) -> None:
    one_by_one_T = torch.cat([_own(policy, [sample]) for sample in samples])
    if difference := noise.exceeded(one_by_one_T):
        raise ModelError(
            f"model.path: its log-probs of the same tokens differ between two batches by {difference}: a token depends "
            "on the other rows of its batch, and no sampler computes the same"
        )


def _choose_head(policy: MaskedPolicy, noise: Noise, samples: Sequence[Sample]) -> str | None:
    """Set `policy.head`; returns why all logits are made."""
    batch = policy.batch(samples, [1.0] * len(samples), device_of(policy))
    try:
        policy.head = PLAIN
        chosen_T = policy.measured(batch, 1.0)[0]
    except (OtherHeadError, *FAILS) as error:
        policy.head = None
        return str(error).partition("\n")[0]
    if difference := noise.exceeded(chosen_T):
        policy.head = None
        return f"log-probs of chosen positions differ from those of all by {difference}"
    return None
