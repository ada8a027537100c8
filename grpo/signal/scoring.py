"""What rewards are given of a group, and what they gave: the same in training and when a run is scored again."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.types import Completion, Prompt, RewardsOfGroup
from rewards import Reward
from rewards.chat import in_form

_KL = "train.kl"  # no reward of a user can have this name


def reward_inputs(prompt: Prompt, completions: Sequence[Completion]) -> tuple[list[Any], dict[str, list[Any]]]:
    """Completions and columns as TRL gives them: texts, or message lists where the prompt is a chat.

    A completion is what the template opened (such as `<think>`) plus what the model wrote. `prompts` is what came
    before: the conversation of a chat, else the text without what the template opened. Of several turns a text is the
    model's last reply, a message list all that came after the prompt; `completion_ids` are the model's own tokens, and
    `episode` is the whole of it, as plain data.
    """
    n = len(completions)
    texts: list[Any] = [prompt.prefill + completion.text for completion in completions]
    columns: dict[str, list[Any]] = {name: [value] * n for name, value in prompt.columns.items()}
    columns["answer"] = [prompt.answer] * n
    columns["completion_ids"] = [completion.written for completion in completions]
    episodes = [completion.episode for completion in completions]
    if any(episodes):
        columns["episode"] = [episode and dataclasses.asdict(episode) for episode in episodes]
    if prompt.messages:
        of_turns = [[dict(message) for message in episode.messages] if episode else None for episode in episodes]
        texts = in_form([turns or text for turns, text in zip(of_turns, texts, strict=True)], "messages", "assistant")
        columns["prompts"] = [[dict(message) for message in prompt.messages] for _ in range(n)]
    else:
        columns["prompts"] = [prompt.text.removesuffix(prompt.prefill)] * n
    return texts, columns


def earned(rewards: Sequence[Reward], weights: Mapping[str, float]) -> RewardsOfGroup:
    """What advantages are computed from, of the rewards of a group's completions."""
    parts = {name: tuple(reward.parts[name] for reward in rewards) for name in weights}
    return RewardsOfGroup(tuple(reward.value for reward in rewards), parts, weights)


def penalised(rewards: RewardsOfGroup, kl_G: Sequence[float], coef: float) -> RewardsOfGroup:
    """With the KL of each completion as one more reward, of weight -coef. What has no value gets none."""
    total = tuple(None if r is None else r - coef * kl for r, kl in zip(rewards.total_G, kl_G, strict=True))
    return RewardsOfGroup(total, {**rewards.parts, _KL: tuple(kl_G)}, {**rewards.weights, _KL: -coef})


def kl_metrics(rewards: Sequence[RewardsOfGroup]) -> dict[str, float]:
    """kl_penalty: the KL that the rewards lost, mean of completions; nothing where none did."""
    penalties = [kl for one in rewards for kl in one.parts.get(_KL, ()) if kl is not None]
    return {"kl_penalty": statistics.fmean(penalties)} if penalties else {}
