"""TRL's own `GRPOTrainer._compute_loss`, on a batch of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.losses import LossInputs
from tests.ragged import MAX_TOKENS, lengths_of


def trl_trainer(folder: Path, model: nn.Module, completions: int) -> Any:
    """A trainer as TRL sets it up for sampling with vLLM: importance weights enter the loss."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from tests.conftest import character_tokenizer

    args = GRPOConfig(
        output_dir=str(folder),
        max_completion_length=MAX_TOKENS,
        num_generations=completions,
        per_device_train_batch_size=completions,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * completions),
        processing_class=character_tokenizer(),
    )
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def configure(trainer: Any, settings: Mapping[str, Any]) -> None:
    """TRL's settings, set late: its constructor would load a reference model from a hub for a KL."""
    names = {"epsilon": "epsilon_low"}  # what the trainer keeps under another name than its config
    defaults = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "delta": None,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "beta": 0.0,
        "use_bias_correction_kl": False,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
    }
    for name, value in {**defaults, **settings}.items():
        setattr(trainer.args, name, value)
        setattr(trainer, names.get(name, name), value)
    trainer._entropy_bonus_enabled = trainer.entropy_coef != 0


def padded(values_T: Tensor, lengths: Sequence[int]) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(values_T.split(list(lengths))), batch_first=True)


def trl_inputs(inputs: LossInputs, importance_T: Tensor | None) -> dict[str, Any]:
    """What `_compute_loss` reads of the batch, but for the token ids."""
    lengths = lengths_of(inputs)
    mask_RL = padded(torch.ones_like(inputs.sequence_T), lengths)
    importance_T = torch.ones_like(inputs.old_logprobs_T) if importance_T is None else importance_T
    assert inputs.ref_logprobs_T is not None
    return {
        "completion_mask": mask_RL,
        "advantages": padded(inputs.advantage_T, lengths),
        "old_per_token_logps": padded(inputs.old_logprobs_T, lengths),
        "ref_per_token_logps": padded(inputs.ref_logprobs_T, lengths),
        "importance_sampling_ratio": padded(importance_T, lengths),
        "num_items_in_batch": mask_RL.sum(),
    }


def trl_gradient(
    trainer: Any, inputs: LossInputs, importance_T: Tensor | None = None, **settings: Any
) -> tuple[float, Tensor, Tensor | None]:
    """TRL's loss, its gradient by log-prob and by entropy, from the log-probs of `inputs` in place of a model's."""
    configure(trainer, settings)
    lengths = lengths_of(inputs)
    logprobs_T = inputs.logprobs_T.detach().requires_grad_()
    entropy_T = inputs.entropy_T.detach().requires_grad_()
    batch = trl_inputs(inputs, importance_T)
    nothing_RL = torch.zeros_like(batch["completion_mask"])
    batch |= {"prompt_ids": nothing_RL[:, :1], "prompt_mask": nothing_RL[:, :1], "completion_ids": nothing_RL}
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        padded(logprobs_T, lengths),
        padded(entropy_T, lengths),
        None,
    )
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    assert logprobs_T.grad is not None
    return loss.item(), logprobs_T.grad, entropy_T.grad
