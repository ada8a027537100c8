"""What is served of an adapted policy computes what the adapted policy computes; what cannot is refused."""

from __future__ import annotations

import pytest
import torch

from grpo.config import AdapterSettings, LoraSettings, ModelError, ModelSettings
from grpo.policy.adapters import ServedWeights, add_adapter
from grpo.policy.load import load_model
from grpo.policy.policy import Policy
from grpo.rollout.sync.stream import read
from recipes.schema.load import RecipeError, load_recipe, model_settings
from recipes.schema.plan import Machine, PlanError, plan

ALL = {"target_modules": "all-linear"}
LORAS = [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}]
OTHERS = [
    {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    {"peft_type": "LN_TUNING", "target_modules": ["input_layernorm", "post_attention_layernorm"]},
    *({"peft_type": kind, **ALL} for kind in ("LORA", "LOHA", "LOKR", "OFT", "HRA", "VERA", "RANDLORA", "MISS")),
]


def settings_of(folder, **adapter) -> ModelSettings:
    return ModelSettings(path=str(folder), dtype="float32", **adapter)


def all_settings(folder) -> list[ModelSettings]:
    loras = [settings_of(folder, lora=LoraSettings(r=4, alpha=8, **lora)) for lora in LORAS]
    return loras + [settings_of(folder, adapter=AdapterSettings(**other)) for other in OTHERS]


def adapted(settings: ModelSettings) -> torch.nn.Module:
    """The model with an adapter whose every parameter is away from where it started, as after training."""
    model = add_adapter(load_model(settings), settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()


def read_all(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is served; `read` compares it with what the specs, made without reading a weight, say of it."""
    return {spec.name: tensor.clone() for spec, tensor in read(ServedWeights(Policy(model)))}


@torch.no_grad()
def logprobs(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(2, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    return torch.log_softmax(model(input_ids=tokens).logits, dim=-1)


def test_served_weights_of_a_plain_model_are_the_checkpoints_names_and_values(tiny_model):
    model = load_model(settings_of(tiny_model))
    served = read_all(model)
    assert set(served) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(served[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("i", range(len(LORAS) + len(OTHERS)))
def test_a_model_with_the_served_weights_has_the_adapted_models_log_probs(tiny_model, i):
    settings = all_settings(tiny_model)[i]
    model = adapted(settings)
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    served = read_all(model)
    plain = load_model(settings_of(tiny_model))
    before = logprobs(plain)
    assert set(served) == {name for name, _ in plain.named_parameters()}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(served[name])
    torch.testing.assert_close(logprobs(plain), logprobs(model), atol=1e-4, rtol=0)
    assert (logprobs(plain) - before).abs().max() > 1e-2
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters())


def test_served_bf16_weights_are_rounded_once_from_an_fp32_sum(tiny_model):
    settings = ModelSettings(path=str(tiny_model), dtype="bfloat16", lora=LoraSettings(r=4, alpha=8))
    model = adapted(settings)
    served = read_all(model)
    layer = dict(model.get_base_model().named_modules())["model.layers.0.mlp.up_proj"]
    delta = 2.0 * layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()  # alpha / r = 2
    expected = (layer.base_layer.weight.float() + delta).bfloat16()
    torch.testing.assert_close(served["model.layers.0.mlp.up_proj.weight"], expected, atol=0, rtol=0)


def test_two_adapters_of_one_seed_start_with_the_same_bits(tiny_model):
    settings = settings_of(tiny_model, lora=LoraSettings(r=4))
    one, same, other = (
        dict(add_adapter(load_model(settings), settings, seed).named_parameters()) for seed in (3, 3, 4)
    )
    assert all(torch.equal(p, same[name]) for name, p in one.items())
    assert not all(torch.equal(p, other[name]) for name, p in one.items())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"peft_type": "LOHAA"}, r"model\.adapter\.peft_type: got 'LOHAA' \(did you mean 'LOHA'\?\)"),
        (
            {"peft_type": "LOHA", "rr": 3, **ALL},
            r"model\.adapter\.rr: LoHaConfig has no such key \(did you mean 'r'\?\)",
        ),
        ({"peft_type": "LOHA", "target_modules": ["nothing"]}, r"peft refuses it .* \{?'?nothing"),
        (
            {"peft_type": "POLY", **ALL},
            r"model\.layers\.3\.mlp\.down_proj does not merge into weights .* use one that",
        ),
        ({"peft_type": "BEFT", **ALL}, r"does not merge into weights \(Base layer has no bias"),
        ({"peft_type": "LORA", "target_modules": ["lm_head"]}, r"the output embeddings cannot be adapted; leave them"),
        ({"peft_type": "LORA", "target_modules": ["embed_tokens"]}, r"tied input embeddings cannot be adapted"),
        (
            {"peft_type": "LORA", **ALL, "modules_to_save": ["norm"]},
            r"model\.layers\.0\.input_layernorm would be trained in full beside",
        ),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused_with_the_reason(tiny_model, adapter, message):
    settings = settings_of(tiny_model, adapter=AdapterSettings(**adapter))
    with pytest.raises(ModelError, match=message):
        add_adapter(load_model(settings), settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.adapter={peft_type: PREFIX_TUNING, num_virtual_tokens: 8}",
            "model.adapter.peft_type: PREFIX_TUNING learns vectors that stand before the prompt, not weights",
        ),
        ("model.adapter={peft_type: prompt_tuning}", "PROMPT_TUNING learns vectors that stand before the prompt"),
        ("model.adapter={peft_type: ADALORA}", "model.adapter.peft_type: ADALORA moves ranks between layers"),
        ("model.lora={dora: true, sync: adapter}", "sync: adapter cannot be served: vLLM takes no DoRA"),
        ("model.lora={quantize: nf4, sync: adapter}", "the server's weights are not the ones that nf4 rounds to"),
        ("model.lora={quantize: nf4, dora: true}", "dora: over 4-bit weights peft merges it to other values"),
        (
            "model={path: tiny, adapter: {peft_type: LORA, init_lora_weights: pissa}}",
            "train.kl_coef: the reference is the model without its adapter, but init_lora_weights: pissa takes",
        ),
        ("model={path: tiny, lora: {r: 4}, adapter: {peft_type: IA3}}", "model.lora is an adapter, too"),
    ],
)
def test_a_recipe_whose_adapter_cannot_work_is_refused_when_it_is_read(override, message):
    with pytest.raises(RecipeError) as refused:
        load_recipe("tiny_arithmetic_cpu", [override, "train.kl_coef=0.01"])
    assert message in str(refused.value)


def test_qlora_without_cuda_is_refused_before_the_start(tiny_model):
    recipe = load_recipe("tiny_arithmetic_cpu", ["model.lora={quantize: nf4}"])
    with pytest.raises(PlanError, match=r"model\.lora\.quantize: nf4 needs a CUDA GPU, and this machine has none"):
        plan(recipe, machine=Machine(2, 16.0, {}))


@pytest.mark.parametrize(
    ("lora", "rollout", "sent"),
    [
        ("{r: 8}", "{engine: vllm}", "adapter"),
        ("{r: 8, rslora: true}", "{engine: vllm}", "adapter"),
        ("{r: 8, dora: true}", "{engine: vllm}", "merged"),
        ("{r: 1024}", "{engine: vllm}", "merged"),
        ("{r: 8, sync: merged}", "{engine: vllm}", "merged"),
        ("{r: 8}", "{engine: vllm, server: {urls: ['http://a']}}", "merged"),
        ("{r: 8}", "{engine: transformers}", "merged"),
    ],
)
def test_the_server_is_sent_an_adapter_wherever_it_can_serve_one(lora, rollout, sent):
    recipe = load_recipe("tiny_arithmetic_cpu", [f"model.lora={lora}", f"rollout={rollout}"])
    assert model_settings(recipe).lora.sync == sent
