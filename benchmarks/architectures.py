"""Is what is served what is trained, for each kind of model? Built tiny and random, trained for three steps.

    python -m benchmarks.architectures FOLDER [--server] [--only NAME,NAME] [--dtype float32] [--docs]

Every architecture of `SHAPES` is made with random weights in FOLDER/NAME/model and trained in a process of its own, by
the in-process engine, or with --server by vLLM's. What its proof at the start says (grpo/policy/proof.py) is printed
as a table: served as trained, to so many nats of an allowed so many; or refused, and why. What is done in FOLDER is
not done again. With --docs the table in docs/architectures.md is written from both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.performance import DOCS, replaced, table

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
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
GPT = {"n_embd": 128, "n_layer": 2, "n_head": 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
ONE_OF_EACH = ["linear_attention", "full_attention"]

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
    "dots1": {**HEAD, **EXPERTS, **GROUPS, "n_routed_experts": 4},
    "minimax": {**HEAD, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ONE_OF_EACH, "block_size": 8},
    "deepseek_v2": {**LATENT, **EXPERTS, **GROUPS, "n_routed_experts": 4},
    "deepseek_v3": {**LATENT, **EXPERTS, **GROUPS, "n_routed_experts": 4},
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
}

SETTINGS = (
    "train.steps=3",
    "rollout.max_tokens=8",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "eval.problems=4",
    "train.learning_rate=1e-3",
)


def build(kind: str, folder: Path, dtype: str) -> None:
    """A random model of this kind, with the tokenizer of the built-in one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = dict(SHAPES[kind])
    sizes = SIZES if shape.pop("SIZES", SIZES) else {}
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "recipes" / "tiny" / "model")
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = AutoConfig.for_model(kind, **(sizes | shape | ids | {"initializer_range": 0.1}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():  # what starts as ones and zeros would hide what is done to it
            parameter += 0.02 * torch.randn(parameter.shape).to(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def outcome(kind: str, folder: Path, server: bool, dtype: str) -> dict[str, Any]:
    """The `proof` of its run, or {"refused": why}; kept in FOLDER."""
    output = folder / kind / ("server" if server else "in-process")
    done = output.with_suffix(".json")
    if done.is_file():
        return json.loads(done.read_text())
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.architectures", str(folder), "--one", kind, "--dtype", dtype]
    ran = subprocess.run([*command, *(["--server"] if server else [])], capture_output=True, text=True)
    if (summary := output / "summary.json").is_file():
        found = json.loads(summary.read_text())["proof"]
    else:
        said = [line for line in (ran.stderr + ran.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "Error" in line or "error:" in line.lower()]
        found = {"refused": (errors or said or ["it ended without a word"])[-1].strip()}
        output.with_suffix(".log").write_text(ran.stdout + ran.stderr)
    done.write_text(json.dumps(found, indent=1))
    return found


def train(kind: str, folder: Path, server: bool, dtype: str) -> None:
    from recipes.command.main import main

    model = folder / kind / "model"
    if not (model / "config.json").is_file():
        build(kind, model, dtype)
    output = folder / kind / ("server" if server else "in-process")
    engine = "vllm" if server else "transformers"
    settings = (*SETTINGS, f"model.path={model}", f"model.dtype={dtype}", f"rollout.engine={engine}")
    sys.argv = ["zero", "run", "tiny_arithmetic_cpu", "--output", str(output)]
    sys.argv += [part for setting in settings for part in ("--set", setting)]
    sys.exit(main())


def row(kind: str, found: Mapping[str, Any]) -> list[str]:
    if "refused" in found:
        return [kind, "", "", f"refused: {found['refused']}"]
    forward, served = found["forward"], found["served"]
    rows = "padded" if forward["padded"] else "packed"
    return [kind, forward["head"], rows, f"{served['perturbed_difference']:.1e} of {served['perturbed_bound']:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.one:
        train(options.one, folder, options.server, options.dtype)
    for kind in options.only.split(","):
        if not options.docs:
            print(*row(kind, outcome(kind, folder, options.server, options.dtype)), sep=" | ", flush=True)
    if options.docs:
        write_docs(folder)


def write_docs(folder: Path) -> None:
    """The table of what was run in FOLDER."""
    rows = []
    for kind in SHAPES:
        files = [folder / kind / f"{engine}.json" for engine in ("in-process", "server")]
        found = [row(kind, json.loads(file.read_text())) if file.is_file() else None for file in files]
        if found[0] is not None:
            rows.append([*found[0], found[1][3] if found[1] else "not run"])
    head = ["architecture", "head", "rows", "in process, nats", "vLLM server, nats"]
    page = DOCS / "architectures.md"
    page.write_text(replaced(page.read_text(), {"architectures": table(head, rows)}))


if __name__ == "__main__":
    main()
