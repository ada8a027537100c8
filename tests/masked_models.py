"""Tiny masked language models, random, as transformers folders."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import character_tokenizer

VOCABULARY, MASK = 98, 97


def save_eurobert(folder: Path, **sizes: int) -> Path:
    """Llama's layers read both ways; 97 characters and a mask token."""
    import torch
    from transformers import EuroBertConfig, EuroBertForMaskedLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = EuroBertConfig(
        **(shape | sizes),
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        mask_token_id=MASK,
        dtype="float32",
        initializer_range=0.2,
    )
    EuroBertForMaskedLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert tokenizer.mask_token_id == MASK
    tokenizer.save_pretrained(folder)
