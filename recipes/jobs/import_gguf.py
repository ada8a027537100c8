"""A GGUF file into a normal transformers folder, for machines that reach no hub."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.errors import InputError

QUANTIZER_TRACES = ("hf_quantizer", "is_quantized", "quantization_method")


class ImportGGUFError(InputError):
    """The file cannot be turned into a checkpoint."""


def import_gguf(file: Path, folder: Path) -> int:
    """Dequantize `file` and save model and tokenizer in bf16 under `folder`. Returns the number of parameters."""
    if not file.is_file():
        raise ImportGGUFError(f"{file}: no such file; expected a model in GGUF format")
    with file.open("rb") as opened:
        if (magic := opened.read(4)) != b"GGUF":
            raise ImportGGUFError(f"{file}: starts with {magic!r}, expected b'GGUF'; it is no GGUF file")
    if folder.exists() and any(folder.iterdir()):
        raise ImportGGUFError(f"{folder}: not empty; give a new folder")

    os.environ.setdefault("TQDM_DISABLE", "1")  # its bars overwrite each other; read when tqdm is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # The loader leaves its dequantizer behind, with which save_pretrained refuses to write plain weights.
    for trace in QUANTIZER_TRACES:
        if hasattr(model, trace):
            delattr(model, trace)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps `to` without its types
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()
