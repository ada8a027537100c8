"""The index of a run's completions: what the page filters and sorts by, 14 bytes a completion and no text.

A step's rows stand group by group, as its rollouts file has them. Their texts are in chunks of whole groups, about
CHUNK_BYTES each; how many a step has is read off the file's metadata, so that whoever makes a chunk, now or later, cuts
at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.page.bundle import pack_arrays
from grpo.record.stored import reading

if TYPE_CHECKING:
    import numpy as np

OUTCOMES = ("correct", "wrong", "no_answer", "malformed", "timeout", "error", "not_graded")
CUT, DROPPED, UNTRAINED = 1, 2, 4  # flags of a completion
CHUNK_BYTES = 1_000_000  # of completions, before compression
COLUMNS = ["group", "prompt_id", "outcome", "reward", "advantage", "dropped", "finish_reason", "token_ids"]


@dataclass(frozen=True, slots=True)
class StepIndex:
    """The completions of one step. Arrays named _G have an entry a group, those named _N one a completion.

    Example: StepIndex(step=3, chunks=1, prompts=["gsm8k/train/7"], number_G=[0], size_G=[8], outcome_N=[0, 1, ...],
    flags_N=[0, 2, ...], reward_N=[1.0, 0.0, ...], advantage_N=[0.5, -0.5, ...], tokens_N=[112, 90, ...])
    """

    step: int
    chunks: int  # of its texts
    prompts: list[str]  # prompt_id of each group
    number_G: np.ndarray  # int32, the group's number within the step
    size_G: np.ndarray  # int32, its completions
    outcome_N: np.ndarray  # uint8, of OUTCOMES
    flags_N: np.ndarray  # uint8
    reward_N: np.ndarray  # float32, nan: could not be scored
    advantage_N: np.ndarray  # float32, nan: not trained on
    tokens_N: np.ndarray  # int32

    def chunk_of(self, group: int) -> int:
        """Of the texts of the group at this place of the step; the page computes the same."""
        return group * self.chunks // len(self.prompts)


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def read_index(path: Path) -> StepIndex:
    """Of a rollouts file. Raises RecordError if it is damaged."""
    import numpy as np
    import pyarrow.compute as pc
    from pyarrow import parquet

    with reading(path), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(COLUMNS)
        chunks = _chunks(file.metadata)

        def numbers(name: str) -> np.ndarray:
            return table[name].cast("float32").to_numpy(zero_copy_only=False)

        prompts, groups = table["prompt_id"].to_pylist(), table["group"].to_pylist()
        starts = [
            i for i in range(len(prompts)) if i == 0 or (prompts[i], groups[i]) != (prompts[i - 1], groups[i - 1])
        ]
        code = {name: number for number, name in enumerate(OUTCOMES)}
        advantage = numbers("advantage")
        flags = CUT * np.asarray(pc.equal(table["finish_reason"], "length").fill_null(False)).astype("uint8")
        flags += DROPPED * np.asarray(table["dropped"].fill_null(False)).astype("uint8")
        flags += UNTRAINED * np.isnan(advantage).astype("uint8")
        return StepIndex(
            step_of(path),
            min(chunks, max(len(starts), 1)),
            [prompts[i] for i in starts],
            np.array([i if groups[at] is None else groups[at] for i, at in enumerate(starts)], "int32"),
            np.diff([*starts, len(prompts)]).astype("int32"),
            np.array([code.get(name, len(OUTCOMES) - 1) for name in table["outcome"].to_pylist()], "uint8"),
            flags,
            numbers("reward"),
            advantage,
            pc.list_value_length(table["token_ids"]).fill_null(0).cast("int32").to_numpy(zero_copy_only=False),
        )


def pack_index(steps: Sequence[StepIndex]) -> bytes:
    """The part of the page that holds these steps."""
    import numpy as np

    known: dict[str, int] = {}
    prompt_G = [known.setdefault(prompt, len(known)) for one in steps for prompt in one.prompts]

    def joined(name: str, dtype: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(getattr(one, name) for one in steps)]).astype(dtype)

    arrays = {
        "prompt": np.array(prompt_G, "int32"),
        **{name: joined(f"{name}_G", "int32") for name in ("number", "size")},
        **{name: joined(f"{name}_N", "uint8") for name in ("outcome", "flags")},
        **{name: joined(f"{name}_N", "float32") for name in ("reward", "advantage")},
        "tokens": joined("tokens_N", "int32"),
    }
    listed = [[one.step, len(one.prompts), one.chunks] for one in steps]
    return pack_arrays(arrays, {"steps": listed, "prompts": list(known)})


def _chunks(metadata: Any) -> int:
    """How many chunks hold the completions of a rollouts file."""
    size = sum(
        group.column(i).total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for i in range(metadata.num_columns)
        if group.column(i).path_in_schema == "completion"
    )
    return max(1, -(-size // CHUNK_BYTES))
