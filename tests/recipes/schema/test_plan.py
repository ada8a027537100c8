"""The plan: batch arithmetic by hand, sizes from a configuration, and a refusal of what cannot fit."""

import json
from dataclasses import replace

import pytest

from grpo.config import LoraSettings, ModelSettings
from grpo.policy.load import ModelError
from recipes.schema.load import load_recipe
from recipes.schema.plan import GIB, LIMIT_VARIABLE, Machine, ModelSize, PlanError, find_machine, model_size, plan
from recipes.schema.plan import _sampler_gib as sampler_gib

SMOLLM2 = ModelSize(parameters=134_515_008, adapter_parameters=0, hidden=576, layers=30, kv_width=192)
QWEN_1_5B = ModelSize(parameters=1_543_714_304, adapter_parameters=0, hidden=1536, layers=28, kv_width=256)
QWEN3_1_7B = ModelSize(parameters=1_720_574_976, adapter_parameters=0, hidden=2048, layers=28, kv_width=1024)
QWEN_7B = ModelSize(7_615_616_512, 0, hidden=3584, layers=28, kv_width=512, outside_layers=1_089_998_336)
QWEN_32B = ModelSize(32_763_876_352, 0, hidden=5120, layers=64, kv_width=1024, outside_layers=1_557_140_480)
LAPTOP = Machine(cores=2, ram_gib=23.0, gpu_gib={})


def gpus(n: int, gib: float = 79.0, total: float | None = None) -> Machine:
    free, whole = dict.fromkeys(range(n), gib), dict.fromkeys(range(n), total or gib)
    return Machine(cores=16, ram_gib=128.0, gpu_gib=free, gpu_total_gib=whole)


def lines(recipe: str, size: ModelSize, machine: Machine, *overrides: str) -> dict[str, str]:
    text = plan(load_recipe(recipe, overrides), size, machine)
    return {line[:15].strip(): line[15:].strip() for line in text.splitlines()}


def test_the_arithmetic_of_a_step_is_derived():
    given = ["rollout.prompts_per_step=16", "rollout.group_size=8", "rollout.max_tokens=96", "train.steps=100"]
    given += ["rollout.max_prompt_tokens=160", "train.tokens_per_micro_batch=4096", "train.updates_per_batch=2"]
    said = lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given)
    assert said["step"] == "16 prompts x 8 = 128 completions"
    assert said["tokens a step"] == "at most 12,288 sampled, 32,768 with prompts"  # 128 x 96, 128 x 256
    assert said["updates"] == "100 steps x 2 = 200"
    assert said["micro-batches"] == "at most 8 an update"  # 4096 // 256 = 16 rows each
    assert said["machine"] == "2 cores, 23.0 GiB free, no GPU"


def test_the_trainers_memory_is_the_formulas():
    # 18 bytes a parameter (2 + 12 + 4): 2.255 GiB. 4096 tokens x 34 x 576 x 30 layers: 2.241 GiB. Process: 0.7.
    given = ["train.tokens_per_micro_batch=4096", "rollout.max_tokens=96", "rollout.max_prompt_tokens=160"]
    given += ["rollout.prompts_per_step=16", "rollout.group_size=8", "train.threads=2"]
    assert lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given)["trainer"] == "CPU, 2 threads, about 5.2 GiB"
    # fp32: 16 bytes a parameter (4 + 12), 2.004 GiB; activations twice as large.
    said = lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given, "model.dtype=float32")
    assert said["trainer"] == "CPU, 2 threads, about 7.2 GiB"
    # checkpointing: 4096 x 576 x (2 x 30 + 34) = 0.207 GiB
    said = lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given, "train.gradient_checkpointing=true")
    assert said["trainer"] == "CPU, 2 threads, about 3.2 GiB"
    # an adapter of 4.9M: 2 x 134.5M + 16 x 4.9M = 0.324 GiB
    said = lines("smollm2_135m_lora_cpu", replace(SMOLLM2, adapter_parameters=4_900_000), LAPTOP, *given)
    assert said["trainer"] == "CPU, 2 threads, about 3.3 GiB"


def test_each_of_several_processes_holds_its_shard_in_fp32_and_what_is_gathered():
    given = ["train.tokens_per_micro_batch=4096", "rollout.max_tokens=96", "rollout.max_prompt_tokens=160"]
    given += ["rollout.prompts_per_step=16", "rollout.group_size=8", "train.processes=2"]
    # 16 bytes x 134.5M / 2: 1.002 GiB. Gathered in bf16: 28.3M of embeddings and 2 of 30 layers, 7.1M: 0.066 GiB.
    # Activations as above, 2.241 GiB. Process: 0.7.
    size = replace(SMOLLM2, outside_layers=28_312_128)
    said = lines("smollm2_135m_cpu", size, LAPTOP, *given)
    assert said["trainer"] == "CPU, 1 threads in each of 2 processes, about 4.0 GiB each"
    # A second copy: 4 x 134.5M / 2 more.
    said = lines("smollm2_135m_cpu", size, LAPTOP, *given, "train.kl_coef=0.1")
    assert said["trainer"].endswith("about 4.3 GiB each")
    # Two replicas of one shard: as much as one process, in fp32.
    said = lines("smollm2_135m_cpu", size, LAPTOP, *given, "train.replicas=2")
    assert said["trainer"].endswith("about 5.0 GiB each")
    with pytest.raises(PlanError, match=r"this machine has 6.0 GiB, the run needs about (8|9|1\d)\.\d"):
        lines("smollm2_135m_cpu", size, replace(LAPTOP, ram_gib=6.0), *given)


def test_the_samplers_memory_is_weights_and_cache():
    # weights 0.251, processes 1.5; a sequence of 256 tokens: 2 blocks of 128 and vLLM's own; cache: 2 x 2 bytes x
    # 30 x 192 x 64 sequences x 384 tokens = 0.527 GiB
    given = ["rollout.max_sequences=64", "rollout.max_tokens=96", "rollout.max_prompt_tokens=160"]
    assert "about 2.3 GiB" in lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given)["sampler"]
    assert "about 5.8 GiB" in lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, "rollout.server.kv_cache_gib=4")["sampler"]
    said = lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, "rollout.server.urls=[http://far:8000]")
    assert said["sampler"] == "vllm: servers at http://far:8000"


def test_several_servers_are_counted_each_with_its_share():
    given = ["rollout.max_sequences=64", "rollout.max_tokens=96", "rollout.max_prompt_tokens=160"]
    said = lines("smollm2_135m_cpu", SMOLLM2, LAPTOP, *given, "rollout.server.replicas=2", "rollout.server.threads=0")
    assert said["sampler"] == "vllm: 2 servers, CPU, 1 threads each, about 4.6 GiB"  # twice 2.3
    with pytest.raises(PlanError, match="3 replicas x tensor_parallel 1 do not divide the servers' 4 GPUs"):
        lines("qwen2.5_7b_math_8gpu", QWEN_7B, gpus(8), "rollout.server.replicas=3")
    said = lines("qwen2.5_7b_math_8gpu", QWEN_7B, gpus(8), "rollout.server.replicas=4")
    assert said["sampler"].startswith("vllm: 4 servers, GPU 0, 1, 2, 3,")


def test_the_plan_counts_the_cache_that_the_server_is_given(tiny_model, monkeypatch):
    import psutil

    from grpo.rollout.vllm.server import command_line, place

    given = [f"model.path={tiny_model}", "rollout.engine=vllm", "rollout.max_sequences=9", "rollout.max_tokens=200"]
    recipe = load_recipe("tiny_arithmetic_cpu", given)
    size = model_size(recipe.model)
    line = command_line(str(tiny_model), recipe.model, recipe.rollout, place(recipe.rollout.server))
    cache = int(line[line.index("--kv-cache-memory-bytes") + 1])
    weights = 4 * size.parameters
    said = sampler_gib(recipe, size, Machine(2, psutil.virtual_memory().available / GIB, {}))
    assert said == pytest.approx(1.5 + (weights + cache) / GIB, rel=1e-6)
    # 2 x 4 bytes x 4 layers x 192 x 9 sequences x whole blocks of 128 tokens and one more
    tokens = recipe.rollout.max_prompt_tokens + 200
    assert cache == 2 * 4 * 4 * 192 * 9 * 128 * (-(-tokens // 128) + 1)


def test_too_little_memory_is_refused_with_what_to_reduce():
    with pytest.raises(PlanError, match=r"this machine has 3.0 GiB, the run needs about .* Reduce rollout.max_seq"):
        plan(load_recipe("smollm2_135m_cpu"), SMOLLM2, replace(LAPTOP, ram_gib=3.0))


@pytest.mark.parametrize(
    ("recipe", "size", "machine", "trainer", "sampler"),
    [
        ("dr_grpo_1.5b_math_1gpu", QWEN_1_5B, gpus(1), "GPU 0,", "vllm: GPU 0,"),
        ("puzzles_1.7b_1gpu", QWEN3_1_7B, gpus(1), "GPU 0,", "vllm: GPU 0,"),
        ("qwen2.5_coder_1.5b_mbpp_1gpu", QWEN_1_5B, gpus(1), "GPU 0,", "vllm: GPU 0,"),
        ("qwen2.5_7b_math_8gpu", QWEN_7B, gpus(8), "GPU 4, 5, 6, 7,", "vllm: GPU 0, 1, 2, 3,"),
        ("qwen2.5_0.5b_gsm8k", SMOLLM2, gpus(4), "GPU 0,", "vllm: GPU 1, 2, 3,"),
    ],
)
def test_a_gpu_recipe_fits_the_machine_that_it_names(recipe, size, machine, trainer, sampler):
    said = lines(recipe, size, machine)
    assert said["trainer"].startswith(trainer)
    assert said["sampler"].startswith(sampler)


def test_the_32b_recipe_trains_on_eight_gpus_beside_a_server_on_eight_others():
    said = lines("qwen2.5_32b_math_2x8gpu", QWEN_32B, gpus(8), "rollout.server.urls=[http://first:8000]")
    assert said["trainer"].startswith("GPU 0, 1, 2, 3, 4, 5, 6, 7,")
    assert said["sampler"] == "vllm: servers at http://first:8000"


def test_on_a_shared_gpu_the_servers_whole_share_counts():
    with pytest.raises(PlanError, match=r"GPU 0 has 79.0 GiB"):
        lines("dr_grpo_1.5b_math_1gpu", QWEN_1_5B, gpus(1), "rollout.server.gpu_memory_utilization=0.9")


@pytest.mark.parametrize(("recipe", "n"), [("dr_grpo_1.5b_math_1gpu", 1), ("qwen2.5_7b_math_8gpu", 8)])
def test_the_server_takes_its_share_of_the_whole_gpu_though_others_use_some_of_it(recipe, n):
    """vLLM on an H200: "Free memory on device cuda:0 (125.04/139.8 GiB) on startup is less than desired"."""
    size = QWEN_1_5B if n == 1 else QWEN_7B
    setting = "rollout.server.gpu_memory_utilization=0.7"
    assert lines(recipe, size, gpus(n, gib=139.0, total=139.8), setting)
    with pytest.raises(PlanError, match=r"GPU \d has 95.0 GiB, the run needs about (97\.9|1\d\d\.\d)"):
        lines(recipe, size, gpus(n, gib=95.0, total=139.8), setting)


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(PlanError, match=r"no GPU 2, 3, 4, 5, 6, 7 here; .*GPU 1: 79 GiB free"):
        lines("qwen2.5_7b_math_8gpu", QWEN_7B, gpus(2))


def test_a_models_size_is_counted_from_its_configuration_alone(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())  # no weights
    size = model_size(ModelSettings(path=str(tmp_path), lora=LoraSettings(r=4, target_modules=["q_proj", "o_proj"])))
    assert size.parameters == AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    assert size.outside_layers == 128 * 192 + 192  # the embedding, which is the head too, and the last norm
    assert size.adapter_parameters == 4 * 2 * 4 * (192 + 192)  # 4 layers x 2 projections x r x (in + out)
    assert (size.hidden, size.layers, size.kv_width) == (192, 4, 192)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_adapter_parameters_are_as_many_as_peft_makes(targets, tiny_model):
    from grpo.policy.adapters import add_adapter
    from grpo.policy.load import load_model

    settings = ModelSettings(path=str(tiny_model), dtype="float32", lora=LoraSettings(r=3, target_modules=targets))
    model = add_adapter(load_model(settings), settings)
    assert model_size(settings).adapter_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_missing_model_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model.path: .*/none"):
        model_size(ModelSettings(path=str(tmp_path / "none")))


def test_a_model_of_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(ModelError, match=r"model.path: "):
        model_size(ModelSettings(path=str(tmp_path)))


def test_the_memory_limit_can_be_set(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "1.5")
    assert find_machine().ram_gib == 1.5
    with pytest.raises(PlanError, match=r"1.5 GiB"):
        plan(load_recipe("smollm2_135m_cpu"), SMOLLM2)
