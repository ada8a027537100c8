"""How large a KV cache is: what the server is given and what the plan counts.

2 (keys, values) x bytes of a number x layers x KV heads x head size, for every token that it holds
"""

from __future__ import annotations

from typing import Any

BLOCK = 128  # tokens; vLLM's on CPU
ITEMSIZE = {"bfloat16": 2, "float32": 4}
SHARE_OF_RAM = 0.25  # of free memory, at most, where there is no GPU


def kv_width(config: Any) -> int:
    """KV heads x head size, of a transformers text configuration; without attention, about what a state takes."""
    queries = getattr(config, "num_attention_heads", None)
    if not isinstance(queries, int):
        return int(config.hidden_size)
    heads = getattr(config, "num_key_value_heads", None) or queries
    head_size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return heads * head_size


def kv_bytes(layers: int, width: int, dtype: str, sequences: int, tokens: int, room: float) -> int:
    """Bytes for `sequences` of `tokens` each, at most `room`, at least one of them. vLLM keeps a block for itself."""
    blocks = -(-tokens // BLOCK) + 1
    sequence = 2 * ITEMSIZE[dtype] * layers * width * blocks * BLOCK
    return int(max(sequence, min(sequences * sequence, room)))
