"""What a reward model finds a reply worth: the score of a sequence classifier (arXiv 2203.02155; Bradley-Terry models).

For what no rule decides. Any classifier of transformers with one label (or `label`), with its own tokenizer and, for
chats, its own chat template. It is loaded once for a process, at the first call, onto `device`.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards.builtin.reply import Part, reply_of
from rewards.graded import Completion
from rewards.types import RewardError, Score

# transformers' own are no input that another one could mend.
_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)
_ASKING = threading.Lock()  # one forward at a time, whichever threads ask


def reward_model(
    completions: Sequence[Completion],
    prompts: Sequence[Any],
    path: str,
    part: Part = "whole",
    label: int = 0,
    device: str = "cpu",
    batch_size: int = 8,
    max_tokens: int = 4096,
    **columns: Any,
) -> list[float | Score]:
    """The classifier's logit for each reply to its prompt. One that is not finite, or does not fit, is a failure.

    Args:
        path: the model's folder or hub id.
        part: `summary`: what follows the thinking, as DeepSeek-R1 reads helpfulness; `whole`: all, as harmlessness.
        label: whose logit, of a classifier with several.
        device: such as cpu or cuda:7.
        max_tokens: of prompt and reply together; a longer one is an error, and not trained on.

    Raises RewardError if the model cannot be loaded, or has no such label.
    """
    classifier = _loaded(path, label, device)
    texts = [classifier.text(prompt, reply_of(one, part)) for prompt, one in zip(prompts, completions, strict=True)]
    with _ASKING:
        return list(classifier.scores(texts, batch_size, max_tokens))


class _Classifier:
    def __init__(self, path: str, label: int, device: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.label, self._torch = label, torch
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        loaded = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise RewardError(
                f"reward_model: {path} lacks {', '.join(missing[:3])}, which would be drawn at random: it is no "
                "sequence classifier. Give a reward model, not a language model"
            )
        if label >= model.config.num_labels:
            raise RewardError(f"reward_model: label: got {label}, {path} has {model.config.num_labels} labels")
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(device).eval()

    def text(self, prompt: Any, reply: str) -> str:
        """A chat by the classifier's own template, else one after the other."""
        if isinstance(prompt, list) and self.tokenizer.chat_template:
            messages = [*prompt, {"role": "assistant", "content": reply}]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        if isinstance(prompt, list):
            prompt = "\n\n".join(_content(message) for message in prompt)
        return f"{prompt}{reply}"

    def scores(self, texts: Sequence[str], batch_size: int, max_tokens: int) -> Iterator[float | Score]:
        """By length, so that little is padded; given back in order."""
        ids = [self.tokenizer(text, add_special_tokens=True)["input_ids"] for text in texts]
        found: dict[int, float | Score] = {
            i: Score(None, None, "error", f"{len(one)} tokens, reward_model's max_tokens is {max_tokens}")
            for i, one in enumerate(ids)
            if not 0 < len(one) <= max_tokens
        }
        order = sorted((i for i in range(len(ids)) if i not in found), key=lambda i: len(ids[i]))
        # Without a token to pad with, or for a model that does not know which is last, one at a time.
        most = batch_size if self.model.config.pad_token_id is not None else 1
        for start in range(0, len(order), most):
            some = order[start : start + most]
            for i, value in zip(some, self._logits([ids[i] for i in some]), strict=True):
                finite = math.isfinite(value)
                found[i] = value if finite else Score(None, None, "error", f"the reward model's score is {value}")
        return (found[i] for i in range(len(ids)))

    def _logits(self, rows: Sequence[Sequence[int]]) -> list[float]:
        torch, longest = self._torch, max(map(len, rows))
        pad = self.model.config.pad_token_id or 0
        input_ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with torch.no_grad():
            out = self.model(input_ids=input_ids.to(self.model.device), attention_mask=mask.to(self.model.device))
        return [float(value) for value in out.logits[:, self.label].float().cpu()]


@functools.lru_cache(maxsize=4)
def _loaded(path: str, label: int, device: str) -> _Classifier:
    try:
        return _Classifier(path, label, device)
    except RewardError:
        raise
    except _UNLOADABLE as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RewardError(f"reward_model: {path} cannot be loaded on {device} as a classifier: {first[0]}") from error


def _content(message: Mapping[str, Any]) -> str:
    return str(message.get("content") or "")
