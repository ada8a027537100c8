"""Each kind of causal model that transformers has, tiny: hand-made shapes, and sizes shrunk by their names."""

from __future__ import annotations

from typing import Any

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
HEAD = {"head_dim": 64}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64}
GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 2}
STEERED = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # as checkpoints say, and vLLM reads
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
GPT = {"n_embd": 128, "n_layer": 2, "n_head": 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
ONE_OF_EACH = ["linear_attention", "full_attention"]
SLIDING = ["sliding_attention", "full_attention"]
HALF_ROTARY = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}

# model_type of transformers -> what its configuration takes beside SIZES, which "SIZES": None leaves out.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": HEAD,
    "mistral": HEAD | {"sliding_window": 8},
    "ministral": HEAD | {"sliding_window": 8},
    "qwen2": {},
    "qwen3": HEAD,
    "gemma": HEAD,
    "gemma2": HEAD | {"sliding_window": 8, "query_pre_attn_scalar": 64},
    "gemma3_text": HEAD | {"sliding_window": 8, "query_pre_attn_scalar": 64},
    "phi": {},
    "phi3": {},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 8},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 6.0},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
    "gpt2": {"SIZES": None, **GPT},
    "gpt_bigcode": {"SIZES": None, **GPT},
    "gptj": {"SIZES": None, **GPT, "rotary_dim": 32},
    "gpt_neox": {},
    "opt": {"ffn_dim": 192, "word_embed_proj_dim": 128},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 1},
    "bloom": {"SIZES": None, "hidden_size": 128, "n_layer": 2, "n_head": 2},
    "mpt": {"SIZES": None, "d_model": 128, "n_layers": 2, "n_heads": 2},
    "glm": HEAD,
    "glm4": HEAD,
    "ernie4_5": HEAD,
    "exaone4": HEAD | {"sliding_window": 8},
    "smollm3": {"no_rope_layers": [1, 0]},
    "nemotron": HEAD,
    "arcee": HEAD,
    "seed_oss": HEAD,
    "hunyuan_v1_dense": HEAD,
    "apertus": HEAD,
    "helium": HEAD,
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 64},
    "qwen3_moe": {**HEAD, **EXPERTS, "num_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 4.0},
    "gpt_oss": {**HEAD, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "phimoe": {"num_local_experts": 4},
    "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "glm4_moe": {**HEAD, **EXPERTS, **GROUPS, "n_routed_experts": 4},
    "dots1": {**HEAD, **EXPERTS, **GROUPS, **STEERED, "n_routed_experts": 4, "n_shared_experts": 1},
    "minimax": {**HEAD, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ONE_OF_EACH, "block_size": 8},
    "deepseek_v2": {**LATENT, **EXPERTS, **GROUPS, "n_routed_experts": 4},
    "deepseek_v3": {**LATENT, **EXPERTS, **GROUPS, **STEERED, "n_routed_experts": 4},
    "qwen3_next": {**HEAD, **EXPERTS, **LINEAR, "num_experts": 4, "layer_types": ONE_OF_EACH},
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 256, "lm_head_multiplier": 0.3},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "mamba2": {
        "SIZES": None,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "state_size": 16,
        "n_groups": 1,
    },
    "recurrent_gemma": {"head_dim": 64, "lru_width": 128, "attention_window_size": 64},
    "gpt_neo": {"SIZES": None, "hidden_size": 128, "num_layers": 2, "num_heads": 2}
    | {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "codegen": {"SIZES": None, **GPT, "n_head": 4, "rotary_dim": 16},
    "dbrx": {"SIZES": None, "d_model": 128, "n_heads": 2, "n_layers": 2, "max_seq_len": 512}
    | {"attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 1e4}}
    | {"ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "gemma3n_text": HEAD
    | {"num_hidden_layers": 4, "layer_types": SLIDING * 2, "sliding_window": 8, "num_kv_shared_layers": 2}
    | {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 16, "laurel_rank": 8}
    | {"activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0]},
    "gemma4_text": HEAD
    | {"layer_types": SLIDING, "sliding_window": 8, "final_logit_softcapping": 30.0, "global_head_dim": 64}
    | {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 16},
    "lfm2_moe": {**EXPERTS, "num_experts": 4, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "zamba2": {"n_mamba_heads": 4, "mamba_d_state": 16, "chunk_size": 16}
    | {"num_key_value_heads": 2, "layers_block_type": ["linear_attention", "hybrid"]},
    "longcat_flash": {**LATENT, "SIZES": None, "hidden_size": 128, "num_layers": 2, "num_attention_heads": 2}
    | {"ffn_hidden_size": 192, "expert_ffn_hidden_size": 64, "head_dim": 32}
    | {"n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2},
    "youtu": {**LATENT, "num_key_value_heads": 2},
    "mimo_v2_flash": {**EXPERTS, "head_dim": 64, "v_head_dim": 32, "n_routed_experts": 4}
    | {"layer_types": SLIDING[::-1], "sliding_window": 8}
    | {"rope_parameters": dict.fromkeys(SLIDING, HALF_ROTARY)},
    "axk1": {**LATENT, **EXPERTS, **GROUPS, "n_routed_experts": 4},
    "zaya": {**HEAD, "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 64, "router_hidden_size": 32},
}

# What a configuration's sizes are called -> tiny. Those that it has are set, where no shape above is given.
SHRUNK: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "dim"), 128)
    | dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size"), 192
    )
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"), 2)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4)
    | dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "n_group"), 2)
    | dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 64)
    | dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "rotary_dim"), 32)
    | dict.fromkeys(("head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv"), 64)
    | dict.fromkeys(("topk_group", "first_k_dense_replace", "num_nextn_predict_layers", "n_shared_experts"), 1)
    | dict.fromkeys(("state_size", "mamba_d_state", "mamba_chunk_size", "chunk_size", "sliding_window"), 16)
    | dict.fromkeys(("max_position_embeddings", "n_positions"), 512)
    | LINEAR
    | {"initializer_range": 0.1}
)
MOST_PARAMETERS = 50_000_000  # of what the shrunk sizes leave large, nothing is built


def config_of(kind: str, ids: dict[str, Any]) -> Any:
    """The tiny configuration. `ids`: of vocabulary and special tokens."""
    from transformers import CONFIG_MAPPING

    if kind in SHAPES:
        shape = dict(SHAPES[kind])
        sizes = SIZES if shape.pop("SIZES", SIZES) else {}
        return CONFIG_MAPPING[kind](**(sizes | shape | ids | {"initializer_range": 0.1}))
    made = CONFIG_MAPPING[kind]
    default = made()
    text = default.get_text_config()
    known = text.to_dict()
    few = {name: size for name, size in (SHRUNK | ids).items() if name in known or name in text.attribute_map}
    return made(text_config=few) if text is not default else made(**few)


def others() -> list[str]:
    """Kinds of causal models that transformers has and SHAPES has not."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in SHAPES]
