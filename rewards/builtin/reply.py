"""What of a completion a model that judges it is shown."""

from __future__ import annotations

from typing import Literal

from rewards.graded import Completion, text_of
from rewards.types import RewardError
from rewards.verifier.extract import after_thinking

Part = Literal["whole", "summary"]


def reply_of(completion: Completion, part: Part) -> str:
    """`summary`: what follows the thinking; "" while it is not finished. Raises RewardError on another part."""
    if part not in ("whole", "summary"):
        raise RewardError(f"part: got {part!r}, expected whole or summary")
    text = text_of(completion)
    return text if part == "whole" else (after_thinking(text) or "").strip()
