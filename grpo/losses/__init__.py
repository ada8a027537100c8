"""Losses as pure functions of one micro-batch's tensors; see objective.py for how they come together."""

from grpo.losses.normaliser import token_weights as token_weights
from grpo.losses.types import LossError as LossError
from grpo.losses.types import LossInputs as LossInputs
from grpo.losses.types import LossTerms as LossTerms
