"""The engine in process decodes in the fastest way that computes what the model's own forward does."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from grpo.config import ModelError
from grpo.rollout.decode import Decoder, Growing

SIZES = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96}
CONFIGS = {
    "llama": (transformers.LlamaConfig(**SIZES, **HEADS, initializer_range=0.2), "padded"),
    # A padded row would run its padding through the recurrent state; this cache drops no rows.
    "mamba": (transformers.MambaConfig(**SIZES, state_size=8), "equal"),
    "lfm2": (transformers.Lfm2Config(**SIZES, **HEADS, layer_types=["conv", "full_attention"]), "equal"),
    # Positions are counted from the first token of the row, padding or not.
    "bart": (transformers.BartConfig(vocab_size=97, d_model=64, decoder_layers=2, decoder_attention_heads=2), "equal"),
    "openai-gpt": (transformers.OpenAIGPTConfig(vocab_size=97, n_embd=64, n_layer=2, n_head=2), "whole"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_sampled_log_probs_are_those_of_one_forward_of_each_whole_row(kind):
    torch.manual_seed(0)
    config, way = CONFIGS[kind]
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, torch.tensor([1]))
    decoder.choose_way()
    assert decoder.way == way
    rows = [Growing((5, 6, 7), 9), Growing((8,), 4), Growing((9, 3, 4), 1), Growing((2, 4, 6, 8, 10), 12)]
    generator = torch.Generator().manual_seed(0)
    decoder.fill(rows, 0.7, lambda logp_BV, live: torch.multinomial(logp_BV.exp(), 1, generator=generator)[:, 0])
    for row in rows:
        assert row.stopped == (row.tokens[-1] == 1)
        assert row.stopped or len(row.tokens) == row.max_tokens
        with torch.no_grad():
            logits = model(torch.tensor([[*row.prompt_ids, *row.tokens]])).logits[0].float()
        logp_TV = torch.log_softmax(logits / 0.7, 1)[len(row.prompt_ids) - 1 : -1]
        own = logp_TV.gather(1, torch.tensor(row.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row.logprobs), own, atol=1e-5, rtol=0)


def test_a_model_that_reads_both_ways_is_refused():
    config = transformers.BertConfig(**SIZES, num_attention_heads=2, intermediate_size=96)
    with pytest.raises(ModelError, match=r"decoded token by token, bert gives log-probs that differ"):
        Decoder(AutoModelForCausalLM.from_config(config).eval(), torch.tensor([1])).choose_way()


def test_a_forward_that_needs_more_than_tokens_is_one_sentence():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"][0]).eval()
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data[:, :5]  # a checkpoint that does not fit
    with pytest.raises(ModelError, match=r"model\.path: the forward of llama fails on a few tokens \(RuntimeError"):
        Decoder(model, torch.tensor([1])).choose_way()
