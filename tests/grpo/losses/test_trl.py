"""Every loss that TRL 1.16 has, value and gradient, against its own `_compute_loss` on the same ragged batch."""

import random
from dataclasses import replace

import pytest
import torch

from grpo.config import GRPOConfig
from grpo.losses import token_weights
from grpo.losses.correction import Correction, corrected
from grpo.losses.entropy import entropy_threshold
from grpo.losses.objective import Objective
from tests.ragged import LENGTHS, MAX_TOKENS, ours, ragged_inputs
from tests.trl_oracle import configure, padded, trl_gradient, trl_inputs, trl_trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # to import TRL takes seconds, and it warns


@pytest.fixture(scope="module")
def model():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).train()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, model):
    return trl_trainer(tmp_path_factory.mktemp("trl"), model, len(LENGTHS))


def agree(inputs, config, trainer, importance_T=None, **settings):
    """Value and gradient to 1e-5, of a gradient that is not 0. Returns our terms."""
    value, grad_T, terms = ours(inputs, config)
    their_value, their_grad_T, _ = trl_gradient(trainer, inputs, importance_T, **settings)
    assert value == pytest.approx(their_value, abs=1e-5)
    assert (grad_T - their_grad_T).abs().max() < 1e-5
    assert grad_T.abs().max() > 1e-3
    return terms


BAND = {"epsilon": 0.2, "epsilon_high": 0.28}
OURS = {"correction": "none", "clip_low": 0.2, "clip_high": 0.28}
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence"}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"loss": "grpo"}, {"loss_type": "grpo"}),
        ({"loss": "bnpo"}, {"loss_type": "bnpo"}),  # one micro-batch, so that its mean is the batch's
        ({"loss": "dr_grpo"}, {"loss_type": "dr_grpo"}),
        ({"loss": "dapo"}, {"loss_type": "dapo"}),
        ({"loss": "grpo", "clip_max": 1.4}, {"loss_type": "grpo", "delta": 1.4}),
        ({"loss": "dapo", "clip_max": 1.4}, {"loss_type": "dapo", "delta": 1.4}),
        ({"loss": "gspo", "clip_low": 0.1, "clip_high": 0.15}, {**GSPO, "epsilon": 0.1, "epsilon_high": 0.15}),
        ({"loss": "gspo_token", "clip_low": 0.1, "clip_high": 0.15}, {**GSPO, "epsilon": 0.1, "epsilon_high": 0.15}),
        # TRL's epsilon_high is the bound itself, ours what it is above 1; TRL has no lower bound
        ({"loss": "cispo", "clip_low": 1.0, "clip_high": 0.5}, {"loss_type": "cispo", "epsilon_high": 1.5}),
    ],
)
def test_value_and_gradient_equal_trl_with_an_active_clip(trainer, seed, settings, theirs):
    inputs = ragged_inputs(seed)
    terms = agree(inputs, GRPOConfig(**OURS | settings), trainer, **BAND | theirs)
    assert 0 < terms.stats["clipped"] < len(inputs.logprobs_T)


@pytest.mark.parametrize("taus", [(1.0, 1.05), (2.0, 3.0)])
def test_sapo_equals_trl(trainer, taus):
    config = GRPOConfig(loss="sapo", sapo_tau_positive=taus[0], sapo_tau_negative=taus[1], correction="none")
    theirs = {"loss_type": "sapo", "sapo_temperature_pos": taus[0], "sapo_temperature_neg": taus[1]}
    agree(ragged_inputs(4), config, trainer, **theirs)


@pytest.mark.parametrize("corrected_kl", [False, True])
@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_k3_in_the_loss_equals_trl(trainer, loss, corrected_kl):
    config = GRPOConfig(**OURS | {"loss": loss, "kl_coef": 0.3, "kl_corrected": corrected_kl})
    theirs = {"loss_type": loss, "beta": 0.3, "use_bias_correction_kl": corrected_kl, **BAND}
    if loss == "cispo":
        theirs["epsilon_high"] = 1.28
        config = config.model_copy(update={"clip_low": 1.0})
    agree(ragged_inputs(5), config, trainer, **theirs)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize(
    "correction", [Correction("truncate", 1.5), Correction("mask", 1.5, 0.6), Correction("sequence_mask", 1.3, 0.8)]
)
def test_the_importance_weights_enter_as_in_trl(trainer, loss, correction):
    inputs = replace(ragged_inputs(6), staleness_T=None)
    config = GRPOConfig(
        loss=loss,
        clip_low=0.2,
        clip_high=0.28,
        correction=correction.kind,
        correction_cap=correction.cap,
        correction_floor=correction.floor,
    )
    result = corrected(inputs, correction, correction)
    assert 0 < result.cut_T.sum() < len(result.cut_T)
    theirs = GSPO if loss == "gspo" else {"loss_type": loss}
    agree(inputs, config, trainer, result.weight_T, **BAND, **theirs)


@pytest.mark.parametrize("loss", ["bnpo", "dapo"])
def test_the_entropy_bonus_equals_trl_where_the_normaliser_is_the_token_mean(trainer, loss):
    inputs = ragged_inputs(7)
    config = GRPOConfig(loss=loss, clip_low=0.2, clip_high=0.28, correction="none", entropy_coef=0.2)
    agree(inputs, config, trainer, loss_type=loss, entropy_coef=0.2, **BAND)
    their_entropy_grad_T = trl_gradient(trainer, inputs, loss_type=loss, entropy_coef=0.2, **BAND)[2]
    assert (inputs.entropy_T.grad - their_entropy_grad_T).abs().max() < 1e-6


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_high_entropy_mask_equals_trl(trainer, share):
    inputs = ragged_inputs(8)
    mask_T = inputs.entropy_T.detach() >= entropy_threshold(inputs.entropy_T, share)
    config = GRPOConfig(loss="dapo", correction="none", entropy_top_share=share)
    agree(replace(inputs, policy_mask_T=mask_T), config, trainer, loss_type="dapo", top_entropy_quantile=share, **BAND)


# -- through a model, down to its parameters ---------------------------------------------------------------------------


def model_batch(model, seed):
    """Token ids, and LossInputs whose log-probs are the model's, each sequence forwarded alone."""
    rng = random.Random(seed)
    inputs = ragged_inputs(seed)
    prompts = [[rng.randrange(1, 97) for _ in range(rng.randint(1, 9))] for _ in LENGTHS]
    answers = [[rng.randrange(1, 97) for _ in range(length)] for length in LENGTHS]
    logprobs = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits_LV = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        logprobs.append(torch.log_softmax(logits_LV, -1).gather(1, torch.tensor(answer)[:, None]).squeeze(1))
    noise_T = inputs.logprobs_T.detach() - inputs.old_logprobs_T
    logprobs_T = torch.cat(logprobs)
    old_T = logprobs_T.detach() + noise_T
    weights = token_weights("sequence", LENGTHS, MAX_TOKENS)
    weight_T = torch.tensor(weights)[inputs.sequence_T]
    return prompts, answers, replace(inputs, logprobs_T=logprobs_T, old_logprobs_T=old_T, weight_T=weight_T)


def test_gradients_of_the_parameters_equal_trl(model, trainer):
    prompts, answers, inputs = model_batch(model, seed=9)
    model.zero_grad()
    loss = Objective(GRPOConfig(correction="none"))(replace(inputs, ref_logprobs_T=None)).loss
    loss.backward()
    grads = [p.grad.clone() for p in model.parameters()]

    configure(trainer, {})
    vars(trainer).pop("_get_per_token_logps_and_entropies", None)
    width = max(map(len, prompts))
    ids = [torch.tensor([0] * (width - len(p)) + p) for p in prompts]
    batch = trl_inputs(inputs, None) | {
        "prompt_ids": torch.stack(ids),
        "prompt_mask": (torch.stack(ids) > 0).long(),
        "completion_ids": padded(torch.tensor([token for answer in answers for token in answer]), LENGTHS),
    }
    model.zero_grad()
    their_loss = trainer._compute_loss(trainer.model, batch)
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    differences = [(a - p.grad).abs().max().item() for a, p in zip(grads, model.parameters(), strict=True)]
    assert max(differences) < 1e-5
    assert max(grad.abs().max() for grad in grads) > 1e-3
