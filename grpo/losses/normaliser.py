"""The weight w of each token in the loss, sum_t w_t * loss_t: what grpo, dr_grpo and dapo differ in.

    sequence  1 / (N * |o_i|)       each completion weighs the same      GRPO, arXiv 2402.03300, eq. 3
    constant  1 / (N * max_tokens)  no length bias                       Dr. GRPO, arXiv 2503.20783
    token     1 / sum_i |o_i|       each token weighs the same           DAPO, arXiv 2503.14476

N and the sums are over the whole optimizer batch, completions without advantage included, so splitting it into
micro-batches or over processes leaves the gradient as it is. A completion that is masked out (length 0) counts
in N but has no tokens; a batch without tokens has nothing to weigh. Departure from TRL, whose bnpo is the token
mean of the local micro-batch: ours counts the optimizer batch, which makes bnpo's normaliser dapo's.
"""

from __future__ import annotations

from collections.abc import Sequence

from grpo.names import Normaliser


def token_weights(kind: Normaliser, lengths: Sequence[int], max_tokens: int) -> list[float]:
    """The weight of each token of each completion in the optimizer batch.

    Args:
        lengths: trained tokens of every completion of the batch, 0 for one that is masked out.
        max_tokens: the longest completion allowed (the constant of `constant`).
    """
    n = len(lengths)
    if kind == "sequence":
        return [1.0 / (n * max(length, 1)) for length in lengths]
    if kind == "constant":
        return [1.0 / (n * max_tokens)] * n
    return [1.0 / max(sum(lengths), 1)] * n
