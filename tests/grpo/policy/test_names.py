"""What is sent has the names, shapes and values that `save_pretrained` writes."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from grpo.config import GRPOConfig
from grpo.policy.adapters import ModelWeights, ServedWeights
from grpo.policy.learner import Learner
from grpo.policy.names import CheckpointStream, prediction_heads
from grpo.policy.policy import Policy
from grpo.rollout.sync.stream import TensorSpec, TensorStream, read

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES),
    "tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=3),
    "qwen3_moe": transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=3, head_dim=16),
    "granitemoe": transformers.GraniteMoeConfig(**SIZES, num_local_experts=3),
    "gpt_oss": transformers.GptOssConfig(**SIZES, num_local_experts=4, head_dim=16),
    # A dense layer, then experts whose bias is a buffer that checkpoints hold.
    "deepseek_v3": transformers.DeepseekV3Config(
        **SIZES, **EXPERTS, **LATENT, n_routed_experts=4, n_group=2, topk_group=1, first_k_dense_replace=1
    ),
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind], dtype=torch.float32)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_stream_is_what_save_pretrained_writes(kind, loaded, tmp_path):
    model = model_of(kind)
    model.save_pretrained(tmp_path)
    if loaded:  # transformers then knows from what it converted
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    written = load_file(tmp_path / "model.safetensors")
    sent = {spec.name: tensor for spec, tensor in read(ServedWeights(Policy(model)))}
    assert sent.keys() == written.keys()
    assert all(torch.equal(sent[name], written[name]) for name in sent)


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt_oss"])
def test_names_that_are_the_checkpoints_keep_their_order_and_their_tensors(kind):
    model = model_of(kind)
    own = dict(model.named_parameters())
    stream = ServedWeights(Policy(model))
    assert [spec.name for spec in stream.specs] == list(own)
    assert all(tensor.data_ptr() == own[name].data_ptr() for name, tensor in stream)


def test_experts_are_converted_one_layer_at_a_time():
    model = model_of("qwen3_moe")
    stream = ServedWeights(Policy(model))
    read_until: list[str] = []

    class Counted:
        specs = stream.unconverted.specs

        def __iter__(self):
            for name, tensor in stream.unconverted:
                read_until.append(name)
                yield name, tensor

    for name, _ in CheckpointStream(model, Counted()):
        if name == "model.layers.0.mlp.experts.0.gate_proj.weight":
            break
    assert not any("layers.1" in name for name in read_until)


def test_parts_that_only_make_sense_together_are_converted_together(monkeypatch):
    """A conversion that joins two parameters of a module: one alone does not make it."""

    def joined(_, tensors):
        rest = {name: tensor for name, tensor in tensors.items() if not name.endswith((".a", ".b"))}
        if len(rest) < len(tensors):
            rest["x.both"] = torch.cat([tensors["x.a"], tensors["x.b"]])
        return rest

    monkeypatch.setattr("grpo.policy.names.revert_weight_conversion", joined)
    tensors = {"x.a": torch.ones(2), "x.b": torch.zeros(3), "y.c": torch.ones(1)}
    found = list(read(CheckpointStream(None, TensorStream(tensors))))
    assert [spec for spec, _ in found] == [
        TensorSpec("x.both", torch.float32, (5,)),
        TensorSpec("y.c", torch.float32, (1,)),
    ]


def test_an_engine_in_process_takes_the_models_own_names():
    model = model_of("mixtral")
    own = ServedWeights(Policy(model)).unconverted
    assert isinstance(own, ModelWeights)
    assert [name for name, _ in own] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    "head", ["model.layers.2.eh_proj.weight", "mtp.layers.0.self_attn.q_proj.weight", "mtp_block.w"]
)
def test_heads_that_predict_further_ahead_are_found_and_not_loaded(head, tmp_path):
    model_of("deepseek_v3").save_pretrained(tmp_path)
    assert prediction_heads(str(tmp_path), 2) == []
    assert prediction_heads("owner/on-a-hub", 2) == []
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {head: torch.ones(2, 2)}, file, {"format": "pt"})
    assert prediction_heads(str(tmp_path), 2) == [head]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert head not in model.state_dict()
    assert head not in [spec.name for spec in ServedWeights(Policy(model)).specs]
    learner = Learner(GRPOConfig(), 1.0, model)
    assert [one for one in learner.sentences(str(tmp_path)) if head in one and "neither trained nor sent" in one]
