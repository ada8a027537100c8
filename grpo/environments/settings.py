"""The environment of a task, as a recipe gives it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from grpo.config import Positive, Settings

Seconds = Annotated[float, Field(gt=0)]


class EnvironmentSettings(Settings):
    """Example: {name: my_games.py:Hangman, config: {lives: 6}, max_turns: 12}"""

    name: str  # a built-in's name, path/to/file.py:Class or package.module:Class
    config: dict[str, Any] = Field(default_factory=dict)  # keyword arguments of the class
    max_turns: Positive = 8  # replies of the model in one episode
    max_turn_tokens: Positive | None = None  # of one reply; None: what is left of rollout.max_tokens
    call_timeout: Seconds = 60.0  # seconds for one call of start, step or score
    # Seconds for a whole episode; with engine: transformers, where all are sampled together, of the environment alone.
    episode_timeout: Seconds = 1800.0
    turn_template: str | None = None  # how a text template goes on; it contains {message}. None: as the task begins

    @field_validator("turn_template")
    @classmethod
    def _has_message(cls, template: str | None) -> str | None:
        if template is not None and "{message}" not in template:
            raise ValueError(f"got {template!r}, expected a text that contains {{message}}")
        return template
