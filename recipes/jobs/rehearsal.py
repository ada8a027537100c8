"""Everything of a recipe that is called with samples, called once before anything starts: rewards, advantage, loss.

The completions are written here, of the run's own first problems: the gold answer as a model would give it, another
answer, an answer that is cut in the middle, and nothing. A reward that lacks a column, or returns the wrong number of
values, is found now instead of after minutes of starting servers. What rewards remember of it is forgotten.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.problems.data import as_written
from eval.problems.shots import FRAMES
from grpo.config import GRPOConfig
from grpo.losses.objective import Objective
from grpo.losses.types import LossError, LossInputs
from grpo.signal.advantage import load_advantage
from grpo.signal.scoring import earned, reward_inputs
from grpo.types import Completion, Episode, FinishReason, Prompt
from recipes.episodes import EpisodesTask
from recipes.errors import InputError
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe
from recipes.tasks import verifier_of
from rewards import Reward, RewardSum
from rewards.types import FAILURES, TrainerState

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

KINDS = ("the gold answer", "another answer", "cut in the middle", "nothing")
PROBLEMS = 2


class RehearsalError(InputError):
    """A setting that only shows when it is used cannot be used. The message names the key."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One of our completions of one prompt, and what it earned.

    Example: Rehearsed(prompt, "the gold answer", "so 42</think> <answer>42</answer>", Reward(1.2, {"accuracy": 1.0}))
    """

    prompt: Prompt
    kind: str  # one of KINDS
    text: str
    reward: Reward


def rehearse(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase | None,
    rewards: RewardSum,
    episodes: EpisodesTask | None = None,
) -> list[Rehearsed]:
    """Call rewards, advantage, loss and optimizer once. Returns the four completions of each prompt and their rewards.

    Args:
        prompts: the first of the training prompts, one or more.
        episodes: where there is an environment, which is given each of the replies as often as it asks for one.
        tokenizer: None where there is none: then completions have as many tokens as characters.

    Raises RewardError, AdvantageError, LossError, EnvironmentRefusedError or RehearsalError: what is wrong, as
    training would find it.
    """
    shown, groups, limit = [], [], recipe.rollout.max_tokens
    for prompt, other in zip(prompts[:PROBLEMS], [*prompts[1:PROBLEMS], prompts[0]], strict=False):
        texts = written(prompt, other, recipe)
        turns = recipe.only_task.environment.max_turns if recipe.only_task.environment else 1
        played = episodes.rehearse(prompt, texts, turns) if episodes else [None] * len(texts)
        completions = [
            _completion(text, kind, tokenizer, limit, episode)
            for kind, text, episode in zip(KINDS, texts, played, strict=True)
        ]
        size = max(recipe.rollout.group_size, len(KINDS))
        group = [completions[i % len(KINDS)] for i in range(size)]
        state = TrainerState(0, recipe.train.steps, 0.0)
        scored = rewards.score(*reward_inputs(prompt, group), state, task=prompt.task)
        groups.append(earned(scored[: recipe.rollout.group_size], rewards.weights))
        shown += [Rehearsed(prompt, *one) for one in zip(KINDS, texts, scored, strict=False)]
    rewards.forget()
    load_advantage(recipe.train.advantage_kind)(groups)
    check_loss(recipe.train)
    check_optimizer(recipe.train)
    return shown


def written(prompt: Prompt, other: Prompt, recipe: Recipe) -> list[str]:
    """What a model might write after the prompt, of each of KINDS."""
    verifier = verifier_of(recipe.only_task)
    gold, wrong = (as_written(one.answer, one.columns, verifier) for one in (prompt, other))
    if gold == wrong:
        wrong = f"{wrong}1"
    opening = "" if "<think>" in prompt.prefill else "<think>"
    place = (recipe.only_task.read or ["tag"])[0]
    frame = FRAMES[place]
    whole = [f"{opening}I think so.</think>\n{frame.format(answer)}" for answer in (gold, wrong)]
    return [*whole, f"{opening}I think", ""]


def in_doubt(rehearsed: Sequence[Rehearsed]) -> list[str]:
    """What is odd in what rewards paid, a sentence each; nothing where the gold answers earn the most."""
    said = [
        f"{one.reward.score.reason}: it scored nothing in the rehearsal, and such completions are not trained on"
        for one in rehearsed
        if one.reward.score is not None and one.reward.score.outcome in FAILURES
    ]
    for start in range(0, len(rehearsed), len(KINDS)):
        gold, *others = [one.reward.value for one in rehearsed[start : start + len(KINDS)]]
        best = max((value for value in others if value is not None), default=None)
        # An environment's own problems have no gold answer.
        if gold is not None and best is not None and best >= gold and rehearsed[start].prompt.answer:
            said.append(
                f"the gold answer of {rehearsed[start].prompt.id} earns {gold:.3g}, one that is not right {best:.3g}: "
                "this does not teach the right answer. See what a reward pays with `zero rewards check`"
            )
            break  # the others will be alike
    return list(dict.fromkeys(said))


def check_engine(recipe: Recipe) -> None:
    """Raises RehearsalError where the engine's package is not installed."""
    if recipe.rollout.engine == "vllm" and not recipe.rollout.server.urls and importlib.util.find_spec("vllm") is None:
        raise RehearsalError(
            "rollout.engine: vllm is not installed here; use engine: transformers, give a server in "
            "rollout.server.urls, or install it (docs/install.md)"
        )


def check_model(recipe: Recipe) -> None:
    """Raises ModelError where the engine cannot sample from such a model."""
    from grpo.policy.diffusion_kind import check_kind, mask_token
    from grpo.policy.load import load_config, load_tokenizer

    model = model_settings(recipe)
    config = load_config(model)
    check_kind(config, model.path, recipe.rollout.engine)
    if settings := recipe.rollout.masked:
        mask_token(config, load_tokenizer(model), settings)


def check_loss(config: GRPOConfig) -> None:
    """Call the loss on two completions of one and two tokens, and take its gradient. Raises LossError."""
    import torch

    logprobs_T = torch.tensor([-1.0, -0.2, -2.0], requires_grad=True)
    inputs = LossInputs(
        logprobs_T=logprobs_T,
        old_logprobs_T=logprobs_T.detach() - 0.1,
        sampler_logprobs_T=logprobs_T.detach() - 0.1,
        advantage_T=torch.tensor([0.7, -0.7, -0.7]),
        weight_T=torch.full((3,), 1 / 3),
        sequence_T=torch.tensor([0, 1, 1]),
        n_sequences=2,
        entropy_T=torch.tensor([0.9, 0.1, 1.4], requires_grad=True),
        ref_logprobs_T=logprobs_T.detach() - 0.2 if config.kl_coef or config.teacher else None,
        staleness_T=torch.zeros(3, dtype=torch.int64),
    )
    loss = Objective(config)(inputs).loss
    gradient: Tensor | None = None
    if loss.requires_grad:  # without a gradient a loss of one's own has been refused
        (gradient,) = torch.autograd.grad(loss, logprobs_T, allow_unused=True)
    if gradient is not None and not gradient.isfinite().all():
        raise LossError(f"train.loss {config.loss!r}: its gradient is {gradient.tolist()}, expected finite numbers")


def check_optimizer(config: GRPOConfig) -> None:
    """Raises RehearsalError where train.optimizer has what AdamW does not take."""
    import torch

    from grpo.policy.optim import MasterAdamW

    try:
        MasterAdamW([torch.nn.Parameter(torch.zeros(1))], **config.optimizer)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition(") ")[2] or str(error)
        raise RehearsalError(
            f"train.optimizer: torch.optim.AdamW does not take {config.optimizer}: {reason}; expected such as "
            "{weight_decay: 0.01, betas: [0.9, 0.95]}"
        ) from error


def _completion(
    text: str, kind: str, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int, episode: Episode | None
) -> Completion:
    ids: Sequence[int] = range(len(text) + 1)
    if tokenizer is not None:  # with the end token, without which no completion stops
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id or 0]
    ids = ids[:max_tokens]  # a reward may rely on it
    n = len(ids)
    finish: FinishReason = "length" if kind == KINDS[2] else "stop"
    return Completion(tuple(ids), (-1.0,) * n, (0,) * n, text, finish, None, episode)


def values(reward: Reward) -> Mapping[str, Any]:
    """The parts and their sum, to show. Example: {"accuracy": 1.0, "format": 1.0, "sum": 1.2}"""
    return {**reward.parts, "sum": reward.value}
