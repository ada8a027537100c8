"""What usually goes wrong in a run, each as a function of what its steps measured.

    (history, config, rollout) -> a sentence with the number and the setting to look at, or None

`history` holds the metrics of every step so far, the newest last, under the names of `grpo/record/recorder.py`. A
threshold is set so that runs that learn stay silent, noise included, and what is said is worth stopping for: a test
holds both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from grpo.config import GRPOConfig, RolloutSettings

History = Sequence[Mapping[str, float]]
Pathology = Callable[[History, GRPOConfig, RolloutSettings], str | None]

WINDOW = 5  # steps: one step's mean says little, and nobody wants to wait for 50

ALIKE = 0.95  # share of groups without contrast: what is left of the batch is a twentieth
EASY, HARD = 0.9, 0.1  # accuracy beyond which groups of 8 or 16 are alike because of the task itself
UNREAD = 0.5  # share of completions without a readable answer: half of the samples cannot be right
UNLEARNED_AFTER = 20  # steps: format is the first thing that is learned, within a few updates
UNREAD_RISE = 0.25  # share by which it may rise; harder problems move it by a tenth
FLAT_AFTER = 100  # steps without any rise: published curves rise within 20 to 50
FLAT_WINDOW = 20  # steps at either end that are compared
FLAT_ERRORS = 2.0  # standard errors that count as a rise
COLLAPSED, COLLAPSED_SHARE = 0.1, 0.1  # nats, and of the start: both, as a pretrained model may start near 0.3
LATELY = 20  # steps in which the reward rises if the run is learning
LONGER = 1.5  # times as long within LATELY; R1-Zero's own growth takes hundreds of steps
CUT = 0.5  # share of completions that are truncated
MISMATCH = 0.1  # nats, mean |trainer - server| log-prob, of a run without a proof; bf16 noise is 0.01 to 0.06
PROVEN = 20.0  # times the noise that the proof found; a model that gets surer of itself has up to five times of it
STALE_ESS = 0.7  # effective share of the samples: truncated weights of one stale step leave 0.95 and more
SPIKE, SPIKE_WINDOW = 10.0, 20  # times the median norm of so many steps; healthy norms vary by a factor of 3
KL_LARGE = 0.5  # nats a token; runs with a KL term stay below 0.1


def no_signal(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """All groups alike, and why."""
    steps = min(WINDOW, config.steps)
    alike = _last(history, "zero_variance_groups", steps)
    if alike is None or alike < ALIKE:
        return None
    return (
        f"{alike:.0%} of the groups of the last {steps} steps have one and the same reward for all their completions, "
        f"so nothing is learned from them (loss 0): {_why_alike(history, steps, config, rollout)}"
    )


def _why_alike(history: History, steps: int, config: GRPOConfig, rollout: RolloutSettings) -> str:
    if config.control == "format_only":
        return "train.control: format_only pays for form alone, which all completions have, or none; that is its result"
    cut, accuracy = _last(history, "truncated", steps), _last(history, "accuracy", steps)
    unread = _unread(history[-steps:])
    if cut is not None and cut > CUT:
        return f"{cut:.0%} are cut at rollout.max_tokens = {rollout.max_tokens} before they answer; raise it"
    if unread is not None and unread > UNREAD:
        return (
            f"{unread:.0%} give no readable answer; say in task.template what form it has, with an example, or start "
            "from an instruction-tuned model"
        )
    if unread is not None and accuracy is not None and accuracy >= EASY:
        return f"the task is too easy ({accuracy:.0%} are right); take harder problems (task.config, zero filter)"
    if unread is not None and accuracy is not None and accuracy <= HARD:
        return (
            f"the task is too hard ({accuracy:.0%} are right); take easier problems (task.config, zero filter), or "
            f"raise rollout.group_size ({rollout.group_size})"
        )
    return (
        "the rewards do not tell one completion from another; look at `rewards` (zero rewards check), or raise "
        f"rollout.group_size ({rollout.group_size})"
    )


def reward_flat(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """Groups have contrast, yet the reward does not rise."""
    rewards = [step["reward"] for step in history if "reward" in step]
    if len(rewards) < FLAT_AFTER or config.control != "none" or no_signal(history, config, rollout):
        return None
    if (_last(history, "accuracy", FLAT_WINDOW) or 0.0) >= EASY:
        return None
    start, end = rewards[:FLAT_WINDOW], rewards[-FLAT_WINDOW:]
    error = ((statistics.variance(start) + statistics.variance(end)) / FLAT_WINDOW) ** 0.5
    if statistics.mean(end) - statistics.mean(start) > FLAT_ERRORS * error:
        return None
    alike = _last(history, "zero_variance_groups", FLAT_WINDOW) or 0.0
    return (
        f"the reward has not risen in {len(rewards)} steps ({statistics.mean(start):.3g} in the first {FLAT_WINDOW}, "
        f"{statistics.mean(end):.3g} in the last), though {1 - alike:.0%} of the groups have a signal: raise "
        f"train.learning_rate ({config.learning_rate:g}) or rollout.prompts_per_step ({rollout.prompts_per_step}), "
        "and read a few completions for whether the reward rewards what it should"
    )


def entropy_collapse(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """Samples are all alike before the task is solved, so there is nothing left to find."""
    start, now = _first(history, "entropy", WINDOW), _last(history, "entropy", WINDOW)
    if start is None or now is None or now > min(COLLAPSED, COLLAPSED_SHARE * start):
        return None
    if (_last(history, "accuracy", WINDOW) or 0.0) >= EASY or _rising(history):
        return None  # it is sure because it is right
    return (
        f"the entropy collapsed from {start:.2g} to {now:.2g} nats: completions hardly differ any more, and nothing "
        f"new is found. Raise train.clip_high ({config.clip_high}; DAPO takes 0.28), set train.entropy_target, or "
        f"lower train.learning_rate ({config.learning_rate:g})"
    )


def length_explosion(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """Completions grow fast, and the reward does not grow with them."""
    length, longer = _last(history[:-LATELY], "length", WINDOW), _last(history, "length", WINDOW)
    if length is None or longer is None or longer < LONGER * length or _rising(history):
        return None
    return (
        f"completions grew from {length:.0f} to {longer:.0f} tokens within {LATELY} steps, and the reward did not "
        f"rise: train.loss: {config.loss}, where it is grpo, punishes long wrong answers least, dr_grpo and dapo do "
        f"not; or add a reward for length (docs/rewards.md). rollout.max_tokens is {rollout.max_tokens}"
    )


def truncation(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    cut = _last(history, "truncated", min(WINDOW, config.steps))
    if cut is None or cut <= CUT or no_signal(history, config, rollout):
        return None
    return (
        f"{cut:.0%} of the completions are cut at rollout.max_tokens = {rollout.max_tokens}: raise it if their answers "
        "are missing, or set train.mask_truncated"
    )


def format_unlearned(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """Completions that end by themselves, but whose answer cannot be read."""
    if len(history) < UNLEARNED_AFTER or no_signal(history, config, rollout):
        return None
    start, now = _unread(history[:WINDOW]), _unread(history[-WINDOW:])
    if start is None or now is None:
        return None
    if now > start + UNREAD_RISE:
        course = f"rose from {start:.0%} to {now:.0%}"
    elif now > UNREAD and now > 0.9 * start:
        course = f"is {now:.0%} after {len(history)} steps"
    else:
        return None
    return (
        f"the share of completions without a readable answer (malformed or none, not truncated) {course}: add "
        "{name: format, weight: 0.2} to rewards, and say in task.template what form an answer has"
    )


def mismatch(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """Server and trainer compute other log-probs from the same weights."""
    if rollout.masked and not rollout.masked.exact:  # an estimate, which is meant to differ
        return None
    difference, stale = _last(history, "logprob_diff", 1), _last(history, "stale", 1) or 0.0
    proven = _last(history, "proven_noise", 1)
    # Stale tokens differ by what was learned since.
    allowed = MISMATCH if proven is None or stale else min(PROVEN * proven, max(MISMATCH, PROVEN / 5 * proven))
    if difference is None or difference <= allowed or stale > 0.5:
        return None
    return (
        f"the server's log-probs differ from the trainer's by {_small(difference)} on average "
        f"(more than {allowed:.2g}): usual causes are model.dtype (float32 shows whether it is precision), LoRA merged "
        "in bf16 (model.lora.sync: adapter), or another temperature on a server of yours; train.correction: "
        f"{config.correction} is applied"
    )


def _small(nats: float) -> str:
    return f"{nats:.2f}" if nats >= 0.01 else f"{nats:.1e}"


def stale_samples(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    """The policy moves so fast that older samples say little about it."""
    ess, stale = _last(history, "ess", WINDOW), _last(history, "stale", WINDOW)
    if ess is None or not stale or ess >= STALE_ESS:
        return None
    return (
        f"the samples are worth {ess:.0%} of fresh ones (effective sample size), as {stale:.0%} of their tokens are of "
        f"older weights: lower rollout.max_staleness ({rollout.max_staleness}) or train.learning_rate "
        f"({config.learning_rate:g})"
    )


def gradient_spike(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    norms = [step["grad_norm"] for step in history[-SPIKE_WINDOW - 1 :] if step.get("grad_norm")]
    if len(norms) < SPIKE_WINDOW // 2 or not history[-1].get("grad_norm"):
        return None
    usual, now = statistics.median(norms[:-1]), norms[-1]
    if now <= SPIKE * usual or now <= config.max_grad_norm:
        return None
    return (
        f"the gradient's norm is {now:.3g}, {now / usual:.0f} times the usual {usual:.3g}; it was clipped to "
        f"train.max_grad_norm = {config.max_grad_norm}. If it comes again, lower train.learning_rate "
        f"({config.learning_rate:g}) or max_grad_norm; the step's completions are in rollouts/"
    )


def kl_blow_up(history: History, config: GRPOConfig, rollout: RolloutSettings) -> str | None:
    kl = _last(history, "kl", WINDOW)
    if not config.kl_coef or kl is None or kl <= KL_LARGE:
        return None
    return (
        f"the KL to the reference is {kl:.2f} nats a token (more than {KL_LARGE}): the policy is far from where it "
        f"started; raise train.kl_coef ({config.kl_coef}), or lower train.learning_rate ({config.learning_rate:g})"
    )


PATHOLOGIES: tuple[Pathology, ...] = (
    no_signal,
    reward_flat,
    entropy_collapse,
    length_explosion,
    truncation,
    format_unlearned,
    mismatch,
    stale_samples,
    gradient_spike,
    kl_blow_up,
)


# -- Reading the history -------------------------------------------------------------------------------------------


def _last(history: History, key: str, n: int) -> float | None:
    """Mean over the last n steps that have the metric; None before there are so many."""
    return _mean(islice((step[key] for step in reversed(history) if key in step), n), n)


def _rising(history: History) -> bool:
    """Whether the reward is higher than LATELY steps ago; True before there are so many."""
    before, now = _last(history[:-LATELY], "reward", WINDOW), _last(history, "reward", WINDOW)
    return before is None or now is None or now > before


def _first(history: History, key: str, n: int) -> float | None:
    return _mean(islice((step[key] for step in history if key in step), n), n)


def _mean(values: Iterable[float], n: int) -> float | None:
    found = list(values)
    return sum(found) / n if len(found) == n else None


def _unread(steps: History) -> float | None:
    """Mean share of completions that ended by themselves without a readable answer; None without a verifier."""
    if not any(key.startswith("outcome/") for step in steps for key in step):
        return None
    shares = [
        max(step.get("outcome/malformed", 0.0) + step.get("outcome/no_answer", 0.0) - step.get("truncated", 0.0), 0.0)
        for step in steps
    ]
    return sum(shares) / len(shares)
