"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import grpo  # noqa: F401 - before the tests import TRL, which changes the environment: see there

# A shell's background job ignores SIGINT, one under nohup SIGHUP, and so would all that the tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For xdist: files that start servers, then those of whole runs, then the others. A long one at the end would idle
    the other worker."""
    if not hasattr(config, "workerinput"):
        return
    ranks: dict[Path, int] = {}
    for item in items:
        rank = next((rank for rank, mark in enumerate(("server", "slow")) if item.get_closest_marker(mark)), 2)
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """Of a failure the name, at once, and not a letter among the dots."""
    if not report.failed:
        return None
    category = "failed" if report.when == "call" else "error"
    return category, f"\n{category.upper()} {report.nodeid}\n", category.upper()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of 1.8M parameters in fp32 with a character tokenizer, as a transformers folder."""
    return save_qwen3(tmp_path_factory.mktemp("tiny-qwen3"))


def save_qwen3(folder: Path, **sizes: int) -> Path:
    """The model of `tiny_model`, but for these sizes of its configuration."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 64,
    }
    torch.manual_seed(0)
    config = Qwen3Config(
        **(shape | sizes),
        vocab_size=128,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
        # The default 0.02 gives logits that are all alike: greedy decoding would then hang on rounding.
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system of its own cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def character_tokenizer():  # type: ignore[no-untyped-def]  # its class costs seconds to import
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "<eos>": 1}
    for character in string.printable[:95]:
        vocab[character] = len(vocab)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def driver():
    """Headless Chromium; only for tests with the marks of tests/browser.py."""
    from tests.browser import start

    driver = start()
    yield driver
    driver.quit()
