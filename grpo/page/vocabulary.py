"""What each token of a run's tokenizer stands for, in bytes: a token may be a part of a character.

Read off the tokenizer.json of the run's last checkpoint, or of its model's folder, without a tokenizer library.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def find_tokenizer(run_dir: Path, model: str | None) -> Path | None:
    """The tokenizer.json of the newest checkpoint that has one, else of the model's folder; None without either."""
    found = sorted(run_dir.glob("checkpoints/step-*/tokenizer.json"))
    if not found and model:
        found = [path for path in [Path(model).expanduser() / "tokenizer.json"] if path.is_file()]
    return found[-1] if found else None


def read_vocabulary(path: Path) -> dict[int, str]:
    """Token id -> its bytes, each as the character of that number. {} if the file is of another kind."""
    try:
        content = json.loads(path.read_bytes())
        model, added = content["model"], content.get("added_tokens") or []
        pairs = model["vocab"]
        ids = pairs if isinstance(pairs, dict) else {text: i for i, (text, _) in enumerate(pairs)}
        form = json.dumps([content.get("decoder"), content.get("pre_tokenizer")], ensure_ascii=False)
        written = {int(i): _latin1(_bytes(text, form)) for text, i in ids.items()}
        return written | {int(one["id"]): _latin1(one["content"].encode()) for one in added}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def _bytes(text: str, form: str) -> bytes:
    if "ByteLevel" in form:
        return b"".join(_FROM_CHARACTER.get(character, character.encode()) for character in text)
    if match := _BYTE.fullmatch(text):
        return bytes([int(match[1], 16)])
    return (text.replace("▁", " ") if "▁" in form else text).encode("utf-8", "replace")


def _latin1(content: bytes) -> str:
    return content.decode("latin-1")


def _byte_level() -> dict[str, bytes]:
    """GPT-2's alphabet: bytes that can be printed are themselves, the others the characters from U+0100 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    shifted = {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}
    return {chr(byte): bytes([byte]) for byte in printed} | shifted


_FROM_CHARACTER = _byte_level()
