"""Whether the answer is right (the accuracy reward of DeepSeek-R1, arXiv 2501.12948, section 2.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Source
from rewards.verifier.math import verify_all


@Graded
def accuracy(
    completions: Sequence[Completion], answer: Sequence[Any], read: Sequence[Source] = STRICT, **columns: Any
) -> list[Score]:
    """1.0 if the final answer equals the column `answer`, 0.0 if not, None if it could not be graded.

    `read` says where the answer may stand (rewards/verifier/extract.py).
    """
    return verify_all([text_of(text) for text in completions], [str(gold) for gold in answer], read)
