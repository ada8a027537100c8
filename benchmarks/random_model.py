"""Checkpoints with random weights of a known model's shape: speed does not depend on what a model knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("Qwen2", {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    }),
    "smollm2-135m": ("Llama", {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    }),
    "qwen2.5-1.5b": ("Qwen2", {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    }),
}  # fmt: skip


def write_model(shape: str, folder: Path, dtype: str = "bfloat16") -> None:
    """A transformers checkpoint, and a tokenizer whose words are numbers."""
    import torch
    import transformers

    family, sizes = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(
        **sizes, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0, dtype=dtype
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{str(number): number + 2 for number in range(100)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
