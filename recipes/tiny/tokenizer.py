"""The built-in model's tokenizer: one character a token, and one token for each tag."""

from __future__ import annotations

import string
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<|pad|>", "<|end|>", "<|unk|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHARACTERS = "\n " + string.digits + string.punctuation + string.ascii_letters


def build_tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """BPE without merges splits text into characters; the tags are ordinary text, so decoding never skips them.

    words: further texts of one token each.
    """
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNK, *TAGS, *CHARACTERS, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in (*TAGS, *words)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
