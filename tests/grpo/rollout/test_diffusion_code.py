"""A masked model whose code comes with its checkpoint: the class is to transformers what LLaDA's own is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from grpo.config import GRPOConfig, ModelError, ModelSettings, RolloutSettings
from grpo.parts import make_learner
from grpo.policy.load import load_tokenizer
from grpo.rollout.diffusion import DiffusionEngine
from grpo.types import Prompt, RolloutRequest, Sample, Sampling
from tests.masked_models import MASK, VOCABULARY, save_tokenizer

CONFIGURATION = """
from transformers import PretrainedConfig


class LLaDAConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(self, use_cache=False, **kwargs):
        super().__init__(use_cache=use_cache, **kwargs)

    num_attention_heads = property(lambda self: self.n_heads)
    num_hidden_layers = property(lambda self: self.n_layers)
    hidden_size = property(lambda self: self.d_model)
"""
# As LLaDA's own: no post_init, tie_weights without arguments, no decoder, a keyword-only way to leave the cache out.
MODELING = """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_llada import LLaDAConfig


class LLaDAModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        block = lambda: nn.TransformerEncoderLayer(
            config.d_model, config.n_heads, config.mlp_hidden_size, dropout=0.0, batch_first=True
        )
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.d_model),
            "wpe": nn.Embedding(config.max_sequence_length, config.d_model),
            "blocks": nn.ModuleList([block() for _ in range(config.n_layers)]),
            "ff_out": nn.Linear(config.d_model, config.vocab_size, bias=False),
        })

    def forward(self, input_ids):
        x = self.transformer.wte(input_ids) + self.transformer.wpe.weight[: input_ids.shape[1]]
        for block in self.transformer.blocks:
            x = block(x)
        return self.transformer.ff_out(x)


class LLaDAModelLM(PreTrainedModel):
    config_class = LLaDAConfig
    base_model_prefix = "model"

    def __init__(self, config, model=None, init_params=False):
        super().__init__(config)
        self.model = model or LLaDAModel(config)

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, past_key_values=None, use_cache=None,
                return_dict=None):
        assert attention_mask is None and not use_cache
        return CausalLMOutputWithPast(logits=self.model.forward(input_ids))

    def can_generate(self):
        return True

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        return {"input_ids": input_ids, **kwargs}

    def get_input_embeddings(self):
        return self.model.transformer.wte

    def get_output_embeddings(self):
        return self.model.transformer.wte if self.config.weight_tying else self.model.transformer.ff_out

    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer.ff_out = self.model.transformer.wte
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("llada")
    (folder / "configuration_llada.py").write_text(CONFIGURATION)
    (folder / "modeling_llada.py").write_text(MODELING)
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 64, "max_sequence_length": 64}
    code = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"}
    config = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": code, "vocab_size": VOCABULARY,
        "mask_token_id": MASK, "eos_token_id": 1, "weight_tying": False, "tie_word_embeddings": False, **sizes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    torch.manual_seed(0)
    place: dict = {}
    exec(MODELING.replace("from .configuration_llada", "from types").replace("LLaDAConfig", "SimpleNamespace"), place)
    model = place["LLaDAModel"](place["SimpleNamespace"](vocab_size=VOCABULARY, **sizes))
    save_file({f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def test_its_code_is_not_run_unless_the_settings_allow_it(folder):
    with pytest.raises(ModelError, match="trust_remote_code"):
        make_learner(GRPOConfig(), ModelSettings(path=str(folder)), RolloutSettings(engine="diffusion"))


def test_it_samples_trains_and_is_refused_elsewhere(folder, tmp_path):
    settings = ModelSettings(path=str(folder), dtype="float32", trust_remote_code=True)
    rollout = RolloutSettings(engine="diffusion", max_tokens=6)
    learner = make_learner(GRPOConfig(learning_rate=1e-3), settings, rollout)
    engine = DiffusionEngine(settings, load_tokenizer(settings), 8, rollout.diffusion)

    async def sampled():
        await engine.start()
        await engine.update_weights(learner.weights, 1)
        request = RolloutRequest(Prompt("1", "1", (20, 21, 22), "0"), 4, Sampling(6))
        return [group async for _, group in engine.generate([request])]

    (group,) = asyncio.run(sampled())
    samples = [Sample.of(group.prompt, one, 1.0) for one in group.completions]
    found = torch.cat(learner.measured(samples))
    said = torch.tensor([x for sample in samples for x in sample.sampler_logprobs])
    assert (found - said).abs().max() < 2e-6
    learner.save_model(tmp_path / "kept")
    assert (tmp_path / "kept" / "model.safetensors").is_file()
    with pytest.raises(ModelError, match="LLaDAModelLM, a masked language model"):
        make_learner(GRPOConfig(), settings, RolloutSettings(engine="transformers"))
