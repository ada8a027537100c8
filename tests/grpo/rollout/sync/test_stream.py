"""Weights as a stream: what is announced is what comes, all of it is read, and its digest sees every change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from grpo.rollout.sync.buckets import as_bytes, buckets, contents, packed, places
from grpo.rollout.sync.digest import BLOCK, checksum, differences, digest, digests_of, values
from grpo.rollout.sync.stream import TensorSpec, TensorStream, from_json, read, to_json

MASK = 2**64 - 1


def tensors(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        "wide": torch.randn(70, 300),
        "odd": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(5, 9).bfloat16().T,
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(11, dtype=torch.uint8),
        "float8": torch.randn(6).to(torch.float8_e4m3fn),
    }


class Watched:
    """A stream that counts how far it was read, and gives what `changes` say in place of what it announced."""

    def __init__(self, given: dict[str, Tensor], **changes: Tensor | None) -> None:
        self.given, self.changes, self.read = given, changes, 0

    @property
    def specs(self) -> list[TensorSpec]:
        return list(TensorStream(self.given).specs)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in (self.given | self.changes).items():
            self.read += 1
            if tensor is not None:
                yield name, tensor


# -- the stream --------------------------------------------------------------------------------------------------


def test_specs_survive_json_and_say_what_comes() -> None:
    stream = TensorStream(tensors())
    assert from_json(to_json(stream.specs)) == list(stream.specs)
    assert [spec for spec, _ in read(stream)] == list(stream.specs)
    assert str(stream.specs[1]) == "odd bfloat16 [7]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"odd": torch.zeros(7)}, r"gave odd float32 \[7\], expected odd bfloat16 \[7\]"),
        ({"odd": torch.zeros(8).bfloat16()}, r"gave odd bfloat16 \[8\], expected odd bfloat16 \[7\]"),
        ({"odd": None}, r"gave scalar float32 \[\], expected odd"),
        ({"float8": None}, r"gave nothing .*, expected float8"),
        ({"another": torch.zeros(1)}, "gave another, expected its end"),
    ],
)
def test_a_stream_that_gives_other_than_it_announced_is_refused_and_read_to_its_end(changes, message) -> None:
    stream = Watched(tensors(), **changes)
    with pytest.raises(ValueError, match=message):
        list(read(stream))
    assert stream.read == len(stream.given | changes)


def test_a_reader_that_stops_early_reads_the_rest_so_that_no_rank_waits_for_it() -> None:
    stream = Watched(tensors())
    with closing(read(stream)) as reader:
        next(reader)
        assert stream.read == 1
    assert stream.read == len(stream.given)


# -- buckets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [16, 100, 4096, 2**26])
def test_buckets_hold_every_tensor_once_in_order_and_give_it_back_to_the_bit(most: int) -> None:
    given = tensors()
    stream = TensorStream(given)
    came: list[tuple[TensorSpec, Tensor]] = []
    digests: list[Tensor] = []
    for specs, (data, its) in zip(buckets(stream.specs, most), packed(stream, torch.device("cpu"), most), strict=True):
        assert len(data) == places(specs)[1]
        assert len(specs) == 1 or len(data) <= most
        came += [(spec, tensor.clone()) for spec, tensor in contents(data, specs)]
        digests += its
    assert [spec for spec, _ in came] == list(stream.specs)
    assert all(torch.equal(as_bytes(tensor), as_bytes(given[spec.name])) for spec, tensor in came)
    assert values(digests) == digests_of(stream)


def test_buckets_are_never_larger_than_asked_but_for_a_tensor_that_is() -> None:
    rng = random.Random(0)
    for _ in range(200):
        specs = [TensorSpec(str(i), torch.uint8, (rng.randrange(200),)) for i in range(rng.randrange(40))]
        found = buckets(specs, 150)
        assert [spec for bucket in found for spec in bucket] == specs
        assert all(len(bucket) == 1 or places(bucket)[1] <= 150 for bucket in found)
        assert all(places([*bucket, after[0]])[1] > 150 for bucket, after in pairwise(found))


# -- the digest --------------------------------------------------------------------------------------------------


def splitmix(stream: int, i: int) -> int:
    x = ((i + 1 + (stream << 32)) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return (x ^ (x >> 31)) | 1


def by_definition(tensor: Tensor) -> int:
    """The formula of digest.py, word by word, in Python's integers."""
    data = bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())
    data += b"\0" * (-len(data) % 4)
    total = 0
    for i in range(len(data) // 4):
        word = int.from_bytes(data[4 * i : 4 * i + 4], "little", signed=True)
        total += splitmix(1, i // BLOCK) * splitmix(0, i % BLOCK) * word
    return (total + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 4, 7, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 6, 12 * BLOCK + 5])
def test_the_digest_is_its_formula(n_bytes: int) -> None:
    data = torch.randint(0, 256, (n_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(n_bytes))
    assert digest(data).item() == by_definition(data)
    assert digest(torch.cat([data, data])[n_bytes:]).item() == by_definition(data)  # wherever in memory it begins


def test_one_flipped_bit_anywhere_changes_the_digest() -> None:
    data = torch.randint(0, 256, (4 * BLOCK + 7,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = digest(data).item()
    rng = random.Random(1)
    for i in [*range(40), *(rng.randrange(len(data)) for _ in range(200)), *range(len(data) - 20, len(data))]:
        for bit in range(8):
            data[i] ^= 1 << bit
            assert digest(data).item() != before
            data[i] ^= 1 << bit


def test_the_order_of_elements_and_of_blocks_is_in_the_digest() -> None:
    values_N = torch.randn(3 * BLOCK, generator=torch.Generator().manual_seed(0))
    before = digest(values_N).item()
    swapped = values_N.clone()
    swapped[[5, 70]] = swapped[[70, 5]]
    blocks = values_N.view(3, BLOCK)[[1, 0, 2]]
    halves = values_N.bfloat16()
    neighbours = halves.clone()
    neighbours[[6, 7]] = neighbours[[7, 6]]
    assert len({before, digest(swapped).item(), digest(blocks).item()}) == 3
    assert digest(halves).item() != digest(neighbours).item()


def test_two_flipped_signs_do_not_cancel() -> None:
    ones = torch.ones(2000)
    found = set()
    for i in range(1, 2000):
        ones[[0, i]] *= -1
        found.add(digest(ones).item())
        ones[[0, i]] *= -1
    assert digest(ones).item() not in found
    assert len(found) == 1999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_computes_the_same_digest() -> None:
    for n in (0, 5, BLOCK, 1200 * BLOCK + 3):  # more blocks than one kernel takes
        data = torch.randint(-(2**31), 2**31, (n,), dtype=torch.int32, generator=torch.Generator().manual_seed(n))
        assert digest(data.cuda()).item() == digest(data).item()


def test_the_checksum_is_of_names_dtypes_shapes_and_bytes_in_any_order() -> None:
    given = tensors()
    stream = TensorStream(given)
    found = checksum(stream.specs, digests_of(stream))
    other_order = TensorStream(dict(reversed(given.items())))
    assert checksum(other_order.specs, digests_of(other_order)) == found
    for changed in (
        {**given, "scalar": torch.tensor(2.25)},
        {**given, "wide": given["wide"].view(300, 70)},
        {**given, "bytes": given["bytes"].view(torch.int8)},
        {("Odd" if name == "odd" else name): tensor for name, tensor in given.items()},
    ):
        assert checksum(TensorStream(changed).specs, digests_of(TensorStream(changed))) != found


def test_the_tensors_that_differ_are_named() -> None:
    specs = TensorStream(tensors()).specs
    sent = list(range(len(specs)))
    assert differences(specs, sent, sent) == ""
    assert differences(specs, sent, [0, 9, *sent[2:]]) == "checksum mismatch: odd did not arrive as sent"
    assert "wide, odd, scalar and 5 more" in differences(specs, sent, [9] * len(specs))
