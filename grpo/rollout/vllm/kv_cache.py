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
    queries = _number(config, "num_attention_heads")
    if not queries:
        return int(config.hidden_size)
    heads = _number(config, "num_key_value_heads") or queries
    return heads * (_number(config, "head_dim") or config.hidden_size // queries)


def _number(config: Any, name: str) -> int:
    """Of layers that differ (Gemma 4), transformers answers by an error, or by a list: 0."""
    try:
        found = getattr(config, name, None)
    except RuntimeError:
        return 0
    return found if isinstance(found, int) else 0


def kv_bytes(layers: int, width: int, dtype: str, sequences: int, tokens: int, room: float) -> int:
    """Bytes for `sequences` of `tokens` each, at most `room`, at least one of them. vLLM keeps a block for itself."""
    blocks = -(-tokens // BLOCK) + 1
    sequence = 2 * ITEMSIZE[dtype] * layers * width * blocks * BLOCK
    return int(max(sequence, min(sequences * sequence, room)))
