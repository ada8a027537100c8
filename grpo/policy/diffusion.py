"""Log-probs of a masked diffusion language model, of completions whose order of unmasking is known.

    log p(y, passes | x) = log p(passes) + sum_i log p(y_i | x, those of earlier passes, masks elsewhere)

LLaDA (arXiv 2502.09992): the model reads both ways, and predicts each masked position from all that is shown. Where the
passes were drawn without looking at the policy (random order), p(passes) is a constant: the sum is the exact
log-likelihood of what was sampled, token by token, and every ratio of two policies is exact.

`exact`: a row of the batch for each pass over each completion, as it was shown to the sampler then.

`one_pass`: d1's estimate (diffu-GRPO, arXiv 2504.12216): log p(y_i | x with some tokens hidden, all of y hidden), a row
a completion. It is another number than the sampler's log-prob and costs 1 / passes as much. Departure: which tokens
of the prompt are hidden is drawn once an optimizer batch, not once an update, so that the policy at its start is
asked the same question.

The mask token itself is never an answer: its logit counts as -inf, in sampler and trainer alike (arXiv 2406.07524).
Rows of a micro-batch are of one length: nothing is padded, so that no model need know what padding is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grpo.diffusion import DiffusionSettings
from grpo.policy.head import OtherHeadError
from grpo.policy.load import causal_lm
from grpo.policy.packing.pack import flat
from grpo.policy.policy import Policy
from grpo.types import PackedBatch, Sample, Unmasking

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedPolicy(Policy):
    """
    Args:
        mask_id: of the mask token.
        settings: how losses see its log-probs.
        max_tokens: that one forward may hold; a completion whose passes are more is computed in parts, which the
            backward pass computes again.
    """

    def __init__(self, model: PreTrainedModel, mask_id: int, settings: DiffusionSettings, max_tokens: int) -> None:
        super().__init__(model)
        self.mask_id, self._settings, self._max_tokens = mask_id, settings, max_tokens

    def forward(
        self,
        batch: PackedBatch,
        temperature: float,
        entropy_gradient: bool = False,
        compute: Callable[[nn.Module], Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        if compute is not None:
            return compute(self.model)
        logprobs_T, entropy_T = self._logprobs(batch, temperature, self.head is None)
        return logprobs_T, entropy_T if entropy_gradient else entropy_T.detach()

    def own_logprobs(self, batch: PackedBatch, temperature: float) -> Tensor:
        with torch.no_grad():
            return self._logprobs(batch, temperature, all_logits=True)[0]

    def batch(self, samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str) -> PackedBatch:
        """One micro-batch of samples of one length, as they were sampled."""
        return unmask(samples, weights, device, mask_id=self.mask_id)

    def ways(self, measuring: bool) -> tuple[Callable[..., list[list[int]]], Callable[..., PackedBatch]]:
        """How to split samples into micro-batches, and to build one. `measuring`: of the sampler's own log-probs."""
        if measuring or self._settings.exact:
            return unmasked_micro_batches, self.batch
        hide = partial(one_pass, mask_id=self.mask_id, prompt_masking=self._settings.prompt_masking)
        return one_pass_micro_batches, hide

    def _logprobs(self, batch: PackedBatch, temperature: float, all_logits: bool) -> tuple[Tensor, Tensor]:
        rows = max(1, self._max_tokens // batch.input_ids_RL.shape[1])
        found: list[tuple[Tensor, Tensor]] = []
        parts = range(0, len(batch.input_ids_RL), rows)
        places = []
        for start in parts:
            here = torch.nonzero((batch.row_T >= start) & (batch.row_T < start + rows)).squeeze(1)
            ids_RL = batch.input_ids_RL[start : start + rows]
            at_T = (batch.row_T[here] - start) * ids_RL.shape[1] + batch.col_T[here]
            arguments = (ids_RL, at_T, batch.target_T[here])
            compute = partial(self._part, temperature=temperature, all_logits=all_logits)
            again = len(parts) > 1 and torch.is_grad_enabled()
            found.append(checkpoint(compute, *arguments, use_reentrant=False) if again else compute(*arguments))
            places.append(here)
        if len(found) == 1:
            return found[0]
        back = torch.argsort(torch.cat(places))
        logprobs_T, entropy_T = (torch.cat(values).index_select(0, back) for values in zip(*found, strict=True))
        return logprobs_T, entropy_T

    def _part(
        self, ids_RL: Tensor, at_T: Tensor, target_T: Tensor, temperature: float, all_logits: bool
    ) -> tuple[Tensor, Tensor]:
        logits_TV = masked_logits(self.model, ids_RL, at_T, self.mask_id, all_logits)
        logp_TV = torch.log_softmax(logits_TV / temperature, dim=1)
        logprobs_T = logp_TV.gather(1, target_T[:, None]).squeeze(1)
        # The mask token's 0 log 0.
        entropy_T = -(logp_TV.exp() * logp_TV.masked_fill(logp_TV == -torch.inf, 0.0)).sum(1)
        return logprobs_T, entropy_T


def masked_logits(model: nn.Module, ids_RL: Tensor, at_T: Tensor, mask_id: int, all_logits: bool = False) -> Tensor:
    """fp32 logits at the positions `at_T` of the flattened rows, (T, V); the mask token's are -inf.

    Only these go through the output layer, unless `all_logits`. Raises OtherHeadError where the model has none.
    """
    lm = causal_lm(model)
    if all_logits:
        logits_TV = lm(input_ids=ids_RL).logits.flatten(0, 1).index_select(0, at_T)
    else:
        logits_TV = _logits_at(lm, ids_RL, at_T)
    forbidden_V = torch.zeros(logits_TV.shape[1], dtype=torch.bool, device=logits_TV.device)
    forbidden_V[mask_id] = True
    return logits_TV.float().masked_fill(forbidden_V, -torch.inf)


def _logits_at(lm: PreTrainedModel, ids_RL: Tensor, at_T: Tensor) -> Tensor:
    layer = lm.get_output_embeddings()
    if not isinstance(layer, nn.Module):
        raise OtherHeadError("it has no output layer")

    def these(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flatten(0, 1).index_select(0, at_T), *args[1:])

    hook = layer.register_forward_pre_hook(these)
    try:
        logits: Tensor = lm(input_ids=ids_RL).logits
    finally:
        hook.remove()
    if logits.dim() != 2 or len(logits) != len(at_T):
        raise OtherHeadError(f"it makes logits {tuple(logits.shape)} of {len(at_T)} positions")
    return logits


# -- Micro-batches ------------------------------------------------------------------------------------------------


def unmasked_micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """Indices of the samples of each micro-batch: rows of one length, rows x length at most `max_tokens`.

    A sample whose passes are more than `max_tokens` by themselves gets a micro-batch of its own.
    """
    return _of_one_length(samples, max_tokens, [max(unmasking_of(sample).passes) + 1 for sample in samples])


def one_pass_micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """As `unmasked_micro_batches`, with a row a sample."""
    return _of_one_length(samples, max_tokens, [1] * len(samples))


def _of_one_length(samples: Sequence[Sample], max_tokens: int, rows: Sequence[int]) -> list[list[int]]:
    lengths = [_length(sample) for sample in samples]
    batches: list[list[int]] = []
    held = 0  # rows of the last batch
    for index in sorted(range(len(samples)), key=lambda i: (-lengths[i], i)):
        alike = bool(batches) and lengths[batches[-1][0]] == lengths[index]
        if alike and (held + rows[index]) * lengths[index] <= max_tokens:
            batches[-1].append(index)
            held += rows[index]
        else:
            batches.append([index])
            held = rows[index]
    return batches


def unmask(
    samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str = "cpu", *, mask_id: int
) -> PackedBatch:
    """One micro-batch, a row for each pass over each sample. `weights` as for `pad`."""
    ids: list[list[int]] = []
    rows: list[int] = []
    cols: list[int] = []
    for sample in samples:
        passes, canvas = unmasking_of(sample).passes, unmasking_of(sample).canvas
        first, start = len(ids), len(sample.prompt_ids)
        for now in range(max(passes) + 1):
            shown = [token if at < now else mask_id for token, at in zip(sample.completion_ids, passes, strict=True)]
            ids.append([*sample.prompt_ids, *shown, *[mask_id] * (canvas - len(passes))])
        rows += sample.of_trained([first + now for now in passes])
        cols += sample.of_trained(range(start, start + len(passes)))
    return _batch(ids, rows, cols, samples, weights, device)


def one_pass(
    samples: Sequence[Sample],
    weights: Sequence[float],
    device: torch.device | str = "cpu",
    *,
    mask_id: int,
    prompt_masking: float,
) -> PackedBatch:
    """One micro-batch of d1's estimate. What of the prompts is hidden is drawn from torch's default generator."""
    ids: list[list[int]] = []
    rows: list[int] = []
    cols: list[int] = []
    for row, sample in enumerate(samples):
        start, n = len(sample.prompt_ids), len(sample.completion_ids)
        hidden = (torch.rand(start) < prompt_masking).tolist()
        prompt = [mask_id if hide else token for token, hide in zip(sample.prompt_ids, hidden, strict=True)]
        ids.append([*prompt, *[mask_id] * unmasking_of(sample).canvas])
        rows += sample.of_trained([row] * n)
        cols += sample.of_trained(range(start, start + n))
    return _batch(ids, rows, cols, samples, weights, device)


def _batch(
    ids: list[list[int]],
    rows: list[int],
    cols: list[int],
    samples: Sequence[Sample],
    weights: Sequence[float],
    device: torch.device | str,
) -> PackedBatch:
    return PackedBatch(
        input_ids_RL=torch.tensor(ids, device=device),
        row_T=torch.tensor(rows, dtype=torch.long, device=device),
        col_T=torch.tensor(cols, dtype=torch.long, device=device),
        **flat(samples, weights, device),
    )


def unmasking_of(sample: Sample) -> Unmasking:
    if sample.unmasking is None:
        raise ValueError("a masked model trains on completions whose order of unmasking was recorded, got none")
    return sample.unmasking


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + unmasking_of(sample).canvas
