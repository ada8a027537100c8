"""Log-probs of a masked model: against a loop over passes, and what of it is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from grpo.config import GRPOConfig, ModelError, ModelSettings, RolloutSettings
from grpo.diffusion import DiffusionSettings
from grpo.losses.objective import Objective
from grpo.losses.types import LossInputs
from grpo.parts import make_learner
from grpo.policy.diffusion import MaskedPolicy, one_pass, unmask, unmasked_micro_batches
from grpo.policy.diffusion_proof import prove_masked
from grpo.policy.load import load_model
from grpo.policy.update import TrainBatch
from grpo.types import Sample, Unmasking
from tests.conftest import save_qwen3
from tests.masked_models import MASK, VOCABULARY, save_eurobert, save_tokenizer

SETTINGS = DiffusionSettings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_eurobert(tmp_path_factory.mktemp("eurobert"))


@pytest.fixture
def model(folder):
    return load_model(ModelSettings(path=str(folder), dtype="float32"))


def policy_of(model, **settings) -> MaskedPolicy:
    return MaskedPolicy(model, MASK, DiffusionSettings(**settings), max_tokens=10_000)


def samples(seed: int = 0) -> list[Sample]:
    """Of two prompt lengths; one writes two tokens a pass, one ends after the first of two blocks."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n):
        return tuple(torch.randint(VOCABULARY - 1, (n,), generator=generator).tolist())

    orders = [((3, 0, 2, 1), 4), ((1, 0, 0, 1), 4), ((1, 0), 4), ((2, 3, 0, 1), 4)]
    lengths = (5, 5, 3, 3)
    return [
        Sample(tokens(n), tokens(len(passes)), tuple(-torch.rand(len(passes), generator=generator) - 1), a,
               unmasking=Unmasking(passes, canvas))
        for n, (passes, canvas), a in zip(lengths, orders, (1.0, -1.0, 0.5, -0.5), strict=True)
    ]  # fmt: skip


def naive(model, sample: Sample, temperature: float = 1.0) -> torch.Tensor:
    """Token by token: the model is shown what had been written before the token's pass."""
    found = []
    for i, token in enumerate(sample.completion_ids):
        ids = list(sample.prompt_ids)
        for j in range(sample.unmasking.canvas):
            before = j < len(sample.completion_ids) and sample.unmasking.passes[j] < sample.unmasking.passes[i]
            ids.append(sample.completion_ids[j] if before else MASK)
        logits = model(torch.tensor([ids])).logits[0, len(sample.prompt_ids) + i] / temperature
        logits = torch.cat([logits[:MASK], logits[MASK + 1 :]])  # the last one
        found.append(torch.log_softmax(logits, 0)[token])
    return torch.stack(found)


def test_logprobs_and_the_loss_gradient_are_those_of_a_loop_over_tokens(model):
    config, given = GRPOConfig(correction="truncate"), samples()
    policy, objective = policy_of(model), Objective(config)
    prove_masked(policy)
    weight = 0.25
    expected = [naive(model, sample, 0.7) for sample in given]

    def inputs(logprobs, some):
        lengths = torch.tensor([len(s.completion_ids) for s in some])
        return LossInputs(
            logprobs_T=logprobs, old_logprobs_T=logprobs.detach(),
            sampler_logprobs_T=torch.tensor([x for s in some for x in s.sampler_logprobs]),
            advantage_T=torch.tensor([s.advantage for s in some]).repeat_interleave(lengths),
            weight_T=torch.full_like(logprobs, weight), sequence_T=torch.arange(len(some)).repeat_interleave(lengths),
            n_sequences=len(some), entropy_T=torch.zeros_like(logprobs),
        )  # fmt: skip

    objective(inputs(torch.cat(expected), given)).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    micros = unmasked_micro_batches(given, max_tokens=60)
    assert sorted(i for micro in micros for i in micro) == [0, 1, 2, 3]
    assert len(micros) > 1
    for micro in micros:
        some = [given[i] for i in micro]
        batch = unmask(some, [weight] * len(some), mask_id=MASK)
        assert batch.input_ids_RL.numel() <= 60 or len(some) == 1
        logprobs_T, _ = policy(batch, 0.7)
        torch.testing.assert_close(logprobs_T, torch.cat([expected[i] for i in micro]), atol=1e-5, rtol=0)
        objective(inputs(logprobs_T, some)).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=2e-5, rtol=1e-4, msg=name)


def test_a_completion_that_is_computed_in_parts_has_the_same_logprobs_entropies_and_gradients(model):
    given = [samples()[0], samples()[1]]
    batch = unmask(given, [1.0, 1.0], mask_id=MASK)
    found = []
    for max_tokens in (10_000, 9):
        policy = MaskedPolicy(model, MASK, SETTINGS, max_tokens)
        logprobs_T, entropy_T = policy(batch, 1.0, entropy_gradient=True)
        (logprobs_T.sum() + 0.3 * entropy_T.sum()).backward()
        found.append([logprobs_T, entropy_T, *(p.grad.clone() for p in model.parameters())])
        model.zero_grad()
    assert torch.isfinite(found[0][1]).all()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_likelihoods_of_all_completions_in_one_order_add_up_to_1(folder, tmp_path):
    model = load_model(ModelSettings(path=str(folder), dtype="float32"))
    model.resize_token_embeddings(6)  # 5 words and the mask token
    policy = MaskedPolicy(model, 5, SETTINGS, 10_000)
    given = [
        Sample((1, 2), written, (0.0,) * 3, 0.0, unmasking=Unmasking((1, 0, 1), 3))
        for written in itertools.product(range(5), repeat=3)
    ]
    logprobs_T = policy.measured(policy.batch(given, [1.0] * len(given), "cpu"), 1.3)[0]
    assert logprobs_T.view(-1, 3).sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_tokens_that_are_not_trained_are_shown_and_have_no_loss(model):
    whole = samples()[0]
    half = Sample(whole.prompt_ids, whole.completion_ids, whole.sampler_logprobs, 1.0, None,
                  (False, True, True, False), unmasking=whole.unmasking)  # fmt: skip
    policy = policy_of(model)
    found = [policy.measured(policy.batch([one], [1.0], "cpu"), 1.0)[0] for one in (whole, half)]
    torch.testing.assert_close(found[1], found[0][1:3])


def test_one_pass_shows_nothing_of_the_completion_and_hides_its_share_of_the_prompt():
    given = [Sample(tuple(range(50)), (7, 8), (-1.0, -1.0), 1.0, unmasking=Unmasking((1, 0), 3)) for _ in range(40)]
    torch.manual_seed(0)
    batch = one_pass(given, [1.0] * 40, mask_id=MASK, prompt_masking=0.15)
    assert batch.input_ids_RL.shape == (40, 53)
    assert (batch.input_ids_RL[:, 50:] == MASK).all()
    assert 0.12 < (batch.input_ids_RL[:, :50] == MASK).float().mean() < 0.18
    assert batch.row_T.tolist() == [row for row in range(40) for _ in range(2)]
    assert batch.col_T.tolist() == [50, 51] * 40
    none = one_pass(given, [1.0] * 40, mask_id=MASK, prompt_masking=0.0)
    assert none.input_ids_RL[0, :50].tolist() == list(range(50))


def learner_of(folder, likelihood="exact", **train):
    rollout = RolloutSettings(engine="diffusion", max_tokens=4, diffusion=DiffusionSettings(likelihood=likelihood))
    model = ModelSettings(path=str(folder), dtype="float32", **train.pop("model", {}))
    train.setdefault("correction", "truncate" if likelihood == "exact" else "none")
    return make_learner(GRPOConfig(**train), model, rollout)


@pytest.mark.parametrize(
    "train",
    [
        {"kl_coef": 0.1, "updates_per_batch": 2},
        {"gradient_checkpointing": True, "loss": "gspo", "entropy_coef": 0.01},
        {"model": {"lora": {"r": 4}}, "kl_coef": 0.1, "entropy_top_share": 0.5},
    ],
)
def test_every_part_of_the_objective_trains(folder, train):
    learner = learner_of(folder, learning_rate=1e-3, **train)
    before = torch.cat(learner.measured(samples()))
    metrics = learner.update(1, TrainBatch(samples(), [0.1] * 4))
    after = torch.cat(learner.measured(samples()))
    assert metrics["trained_tokens"] == 14
    assert metrics["grad_norm"] > 0
    assert not torch.equal(before, after)


def test_micro_batches_leave_the_step_as_it_was_and_the_estimate_is_another_number(folder):
    found = {}
    for name, given in {
        "whole": {},
        "parts": {"tokens_per_micro_batch": 20},
        "one_pass": {"likelihood": "one_pass", "correction": "none"},
    }.items():
        metrics = learner_of(folder, **given).update(1, TrainBatch(samples(), [0.1] * 4))
        found[name] = (metrics["grad_norm"], metrics["entropy"])
    assert found["parts"] == pytest.approx(found["whole"], rel=1e-4)
    assert found["one_pass"] != pytest.approx(found["whole"], rel=1e-2)


def test_the_measured_logprobs_are_those_of_the_passes_also_where_losses_see_an_estimate(folder):
    exact, estimate = (learner_of(folder, likelihood) for likelihood in ("exact", "one_pass"))
    for one, other in zip(exact.measured(samples()), estimate.measured(samples()), strict=True):
        torch.testing.assert_close(one, other)


# -- What is refused ----------------------------------------------------------------------------------------------


def test_a_causal_model_is_refused_by_name_and_by_what_it_computes(tmp_path):
    folder = save_qwen3(tmp_path, hidden_size=64, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1)
    with pytest.raises(ModelError, match="Qwen3ForCausalLM, which reads from left to right; engine: diffusion needs"):
        learner_of(folder)
    causal = load_model(ModelSettings(path=str(folder), dtype="float32"))
    with pytest.raises(ModelError, match="changes nothing of what Qwen3ForCausalLM says of it"):
        prove_masked(MaskedPolicy(causal, 5, SETTINGS, 10_000))


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_masked_model_is_refused_with_the_other_engines(folder, engine):
    with pytest.raises(ModelError, match=f"EuroBertForMaskedLM, a masked language model, .*engine: {engine} expected"):
        make_learner(GRPOConfig(), ModelSettings(path=str(folder)), RolloutSettings(engine=engine))


def test_a_model_whose_rows_see_each_other_is_refused(model):
    policy = policy_of(model)
    policy.model.model.norm.register_forward_hook(lambda module, args, out: out + 0.1 * out.mean(0, keepdim=True))
    with pytest.raises(ModelError, match="on the other rows of its batch"):
        prove_masked(policy)


def test_a_head_of_another_form_keeps_all_logits(folder, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.1, initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    learner = learner_of(tmp_path)  # its dropout is off in training
    assert learner.forward.own_logits is None  # BERT's transform stands before its output layer
    model = load_model(ModelSettings(path=str(tmp_path), dtype="float32"))
    for one, sample in zip(learner.measured(samples()), samples(), strict=True):
        torch.testing.assert_close(one, naive(model, sample).detach(), atol=1e-5, rtol=0)
    policy = policy_of(load_model(ModelSettings(path=str(folder), dtype="float32")))
    scaled = policy.model.lm_head
    policy.model.lm_head = torch.nn.Sequential(scaled)
    policy.model.get_output_embeddings = lambda: None
    proof = prove_masked(policy)
    assert proof.own_logits == "it has no output layer"


@pytest.mark.parametrize(
    ("name", "said"),
    [("<nope>", "the tokenizer has no token '<nope>'"), (None, "neither the tokenizer nor config.json")],
)
def test_a_model_without_that_mask_token_is_refused(tmp_path, name, said):
    from grpo.policy.diffusion_kind import mask_token
    from tests.conftest import character_tokenizer

    class Config:
        vocab_size = 97

        def get_text_config(self):
            return self

    with pytest.raises(ModelError, match=said):
        mask_token(Config(), character_tokenizer(), DiffusionSettings(mask_token=name))


def test_an_unmasking_has_every_pass_and_a_place_for_every_token():
    for passes, canvas in (((0, 2), 2), ((1, 1), 2), ((0, 1, 2), 2)):
        with pytest.raises(ValueError, match="expected passes 0, 1"):
            Unmasking(passes, canvas)
