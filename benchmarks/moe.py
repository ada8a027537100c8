"""Mixtures of experts learn arithmetic: beside a dense model of their active size, with and without routing replay.

    python -m benchmarks.moe FOLDER [--only KIND,KIND] [--seeds 0,1] [--dtype bfloat16] [--replay both] [--engine vllm]

    python -m benchmarks.moe FOLDER --difference [--only qwen3_moe,random] [--dtype bfloat16]

Each kind is made from random weights, pretrained as the built-in model was, on fewer levels (FOLDER/KIND/model, once),
then trained by GRPO with each seed. What is done in FOLDER is not done again. Printed are held-out accuracy before and
after, with intervals over problems, and the difference between sampler and trainer, in nats a token, mean of the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

LEVELS = (1, 2)
SIZES = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 512}
ACTIVE = 384  # of the feed-forward layers' intermediate size, of every kind
HEAD = {"num_key_value_heads": 2, "head_dim": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": HEAD | {"intermediate_size": ACTIVE},
    "qwen3_moe": HEAD
    | {"intermediate_size": ACTIVE, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": ACTIVE // 2}
    | {"norm_topk_prob": True},
    "deepseek_v3": {"num_key_value_heads": 2, "intermediate_size": ACTIVE, "first_k_dense_replace": 1}
    | {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": ACTIVE // 3}
    | {"n_group": 2, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    | {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 64},
}

RANDOM = "random"  # for --difference: not pretrained, so that routers and tokens are undecided
DEEPER = {"num_hidden_layers": 6, "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 64}
SHAPES[RANDOM] = SHAPES["qwen3_moe"] | DEEPER | {"initializer_range": 0.1}


def make(kind: str, folder: Path, steps: int) -> None:
    """The pretrained model of this kind."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

    from recipes.tiny.pretrain import pretrain, save

    def build(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        config = CONFIG_MAPPING["qwen3_moe" if kind == RANDOM else kind](
            **(SIZES | SHAPES[kind]),
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        print(f"{kind}: {model.num_parameters():,} parameters", flush=True)
        return model

    save(*pretrain(0 if kind == RANDOM else steps, 0, build, LEVELS), folder)


def train(kind: str, folder: Path, seed: int, options: argparse.Namespace, replay: bool) -> Path:
    """The run's folder."""
    from recipes.jobs.train import run
    from recipes.schema.load import load_recipe

    output = folder / kind / f"{options.engine}-{options.dtype}-seed{seed}{'-replay' if replay else ''}"
    if (output / "summary.json").is_file():
        return output
    settings = [
        f"model={{path: {folder / kind / 'model'}, dtype: {options.dtype}}}",
        f"task.config.levels={list(LEVELS)}",
        f"rollout.engine={options.engine}",
        f"rollout.routing_replay={str(replay).lower()}",
        f"train.seed={seed}",
        f"train.steps={options.steps}",
        "train.eval_every=0",
        "rollout.prompts_per_step=8",
        "rollout.max_tokens=32",
        f"train.router_bias_update_rate={0.001 if kind == 'deepseek_v3' else 0.0}",
    ]
    run(load_recipe("tiny_arithmetic_cpu", settings), "benchmarks.moe", output, False)
    return output


def difference(kind: str, folder: Path, dtype: str) -> list[str]:
    """Of sampler and trainer, before any step: mean |log-prob difference| without and with replay, nats a token."""
    import asyncio
    from dataclasses import replace

    import torch

    from grpo.config import GRPOConfig, ModelSettings
    from grpo.policy.learner import Learner
    from grpo.policy.load import load_model, load_tokenizer
    from grpo.rollout.local import TransformersEngine
    from grpo.types import Prompt, RolloutRequest, Sample, Sampling

    settings = ModelSettings(path=str(folder / kind / "model"), dtype=dtype)
    tokenizer = load_tokenizer(settings)
    engine = TransformersEngine(settings, tokenizer, 256)
    questions = [f"{a} + {b}=<think>" for a in range(10, 90, 10) for b in range(7, 97, 12)]
    prompts = [Prompt(str(i), text, tuple(tokenizer(text)["input_ids"]), "") for i, text in enumerate(questions)]

    async def sampled() -> list[Sample]:
        await engine.start()
        requests = [RolloutRequest(one, 4, Sampling(32), seed=i, experts=True) for i, one in enumerate(prompts)]
        groups = [group async for _, group in engine.generate(requests)]
        return [
            Sample(group.prompt.token_ids, one.token_ids, one.logprobs, 0.0, experts=one.experts)
            for group in groups
            for one in group.completions
        ]

    samples = asyncio.run(sampled())
    learner = Learner(GRPOConfig(), 1.0, load_model(settings), routing_replay=True)
    sampler_T = torch.tensor([x for sample in samples for x in sample.sampler_logprobs])
    cells = []
    for given in ([replace(sample, experts=None) for sample in samples], samples):
        difference_T = (torch.cat(learner.measured(given)) - sampler_T).abs()
        cells.append(f"{difference_T.mean():.2g} ± {1.96 * difference_T.std() / len(difference_T) ** 0.5:.1g}")
    assert learner.routing is not None
    rerouted, routed = learner.routing.difference().tolist()
    return [kind, dtype, str(len(sampler_T)), *cells, f"{rerouted / routed:.2%}"]


def row(kind: str, output: Path, replay: bool) -> list[str]:
    summary = json.loads((output / "summary.json").read_text())
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    accuracy = [
        f"{one['accuracy']:.1%} [{one['low']:.1%}, {one['high']:.1%}]" for one in (summary["before"], summary["after"])
    ]
    means = [
        f"{statistics.fmean(found):.2g}" if (found := [step[name] for step in steps if name in step]) else "-"
        for name in ("logprob_diff", "kl_sampler", "routing_diff", "expert_load_max")
    ]
    return [kind, "yes" if replay else "no", str(summary["seed"]), *accuracy, *means]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="qwen3,qwen3_moe,deepseek_v3")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--replay", default="off", choices=["off", "on", "both"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--pretraining", type=int, default=800, help="steps")
    parser.add_argument("--difference", action="store_true", help="of sampler and trainer alone, without training")
    options = parser.parse_args()
    folder = options.folder.absolute()
    rows = []
    names = ["kind", "replay", "seed", "before", "after", "logprob_diff", "kl_sampler", "routing_diff", "load"]
    for kind in options.only.split(","):
        if not (folder / kind / "model" / "tokenizer.json").is_file():
            make(kind, folder / kind / "model", options.pretraining)
        if options.difference:
            names = ["kind", "dtype", "tokens", "without replay", "with replay", "choices that differ"]
            rows.append(difference(kind, folder, options.dtype))
            continue
        replays = {"off": [False], "on": [True], "both": [False, True]}[options.replay]
        for seed in map(int, filter(None, options.seeds.split(","))):
            for replay in replays if kind != "qwen3" else [False]:
                rows.append(row(kind, train(kind, folder, seed, options, replay), replay))
    for line in [names, ["---"] * len(names), *rows]:
        print(f"| {' | '.join(line)} |", file=sys.stdout)


if __name__ == "__main__":
    main()
