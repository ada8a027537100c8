"""report.html of a run: one file as long as it is small; else the texts are scripts in report/, which it loads.

A page that is opened from a file may load scripts that lie beside it, and nothing else: so a part is a script that
calls `zeroPart` with its name and its bytes. A part that is newer than the rollouts that it was made of is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grpo.page.bundle import in_base64, pack_json
from grpo.page.index import StepIndex, pack_index, read_index, step_of
from grpo.page.shell import BASE, asset, shell
from grpo.page.state import model_of, state_of
from grpo.page.texts import StepTexts
from grpo.page.vocabulary import find_tokenizer, read_vocabulary
from grpo.page.words import pack_words, word_blocks
from grpo.record.atomic import write_atomic
from grpo.record.run import Run
from grpo.record.stored import ROLLOUTS, RecordError

SCRIPTS = (*BASE, "browse.js", "completions.js", "words.js", "filters.js", "detail.js", "run.js")
INLINE_BYTES = 3_000_000  # of rollouts, up to which the page is one file
BLOCK = 200_000  # completions of one part of the index
MAX_TOKENS = 20_000_000  # whose probabilities a page keeps: they take more room than the texts


def write_page(run_dir: Path, run: Run) -> Path:
    """Write report.html, and report/ where the run is large; returns the page's path. OSError names what failed."""
    folder, unread = run_dir / "report", list(run.unread)
    files = sorted((run_dir / "rollouts").glob(ROLLOUTS))
    inline = sum(path.stat().st_size for path in files) <= INLINE_BYTES
    indexed = list(_indexed(files, unread))
    vocabulary, ids = _vocabulary(run_dir, run), set[int]()
    with_tokens = _with_tokens([index for _, index in indexed])
    parts: dict[str, bytes] = {}
    whole: list[StepIndex] = []
    written: set[str] = set()
    for path, index in indexed:
        try:
            made = _Parts(path, index, index.step in with_tokens)
            if inline:
                parts |= made.all()
                ids |= made.token_ids()
            else:
                written |= _write_beside(folder, path, made)
        except RecordError as error:
            unread.append(str(error))
        else:
            whole.append(index)
    blocks = {f"index-{i:04d}": pack_index(block) for i, block in enumerate(_blocks(whole))}
    state = state_of(replace(run, unread=[*dict.fromkeys(unread)]), run_dir, "finished" if run.summary else "stopped")
    state |= {"index": list(blocks), "with_tokens": None if len(with_tokens) == len(indexed) else sorted(with_tokens)}
    if not inline:
        state["words"] = _write_words(folder, whole, {step_of(path): path for path in files})
        written |= {name for name, _, _ in state["words"]}
    parts |= {"state": pack_json(state), **blocks}
    if inline:
        parts["vocabulary"] = pack_json({token: vocabulary[token] for token in sorted(ids & vocabulary.keys())})
    else:
        written.add("vocabulary")
        _write_script(folder, "vocabulary", pack_json(vocabulary))
    page = shell(
        asset("run.html"),
        run.title,
        run.facts,
        [asset(name) for name in SCRIPTS],
        parts,
        source="inline" if inline else "beside",
        said=state["unread"],
    )
    write_atomic(run_dir / "report.html", page)
    for path in folder.glob("*.js") if folder.is_dir() else ():
        if path.stem not in written:
            path.unlink()
    return run_dir / "report.html"


class _Parts:
    """The parts of one step: their names, and what is in them. Its rollouts are read when they are first needed."""

    def __init__(self, path: Path, index: StepIndex, tokens: bool) -> None:
        self._path, self._index, self._tokens = path, index, tokens
        self._read: StepTexts | None = None

    def names(self) -> list[str]:
        kinds = ("texts", "tokens") if self._tokens else ("texts",)
        return [part_name(kind, self._index.step, chunk) for chunk in range(self._index.chunks) for kind in kinds]

    def make(self, name: str) -> bytes:
        kind, _, chunk = name.split("-")
        return pack_json(getattr(self._texts(), kind)(int(chunk)))

    def all(self) -> dict[str, bytes]:
        return {name: self.make(name) for name in self.names()}

    def token_ids(self) -> set[int]:
        return self._texts().token_ids()

    def _texts(self) -> StepTexts:
        if self._read is None:
            self._read = StepTexts(self._path, self._index)
        return self._read


def part_name(kind: str, step: int, chunk: int) -> str:
    return f"{kind}-{step:06d}-{chunk:03d}"


def _write_beside(folder: Path, rollouts: Path, made: _Parts) -> set[str]:
    """Write the step's parts that are not there yet; returns the names of all of them."""
    names = made.names()
    for name in names:
        if not _is_newer(folder / f"{name}.js", [rollouts]):
            _write_script(folder, name, made.make(name))
    return set(names)


def _write_words(folder: Path, whole: list[StepIndex], files: dict[int, Path]) -> list[tuple[str, int, int]]:
    """Write the parts that find texts and are not there yet; returns each one's name, its first and its last step."""
    found = []
    for block in word_blocks(whole):
        steps = [(files[index.step], index) for index in block]
        name = f"words-{block[0].step:06d}-{block[-1].step:06d}"
        if not _is_newer(folder / f"{name}.js", [path for path, _ in steps]):
            _write_script(folder, name, pack_words(steps))
        found.append((name, block[0].step, block[-1].step))
    return found


def _is_newer(part: Path, rollouts: list[Path]) -> bool:
    return part.is_file() and part.stat().st_mtime_ns > max(path.stat().st_mtime_ns for path in rollouts)


def _write_script(folder: Path, name: str, part: bytes) -> None:
    write_atomic(folder / f"{name}.js", f'zeroPart("{name}", "{in_base64(part)}");\n')


def _indexed(files: list[Path], unread: list[str]) -> Iterator[tuple[Path, StepIndex]]:
    for path in files:
        try:
            yield path, read_index(path)
        except RecordError as error:
            unread.append(str(error))


def _with_tokens(indices: list[StepIndex]) -> set[int]:
    """The steps whose tokens are kept: all, or from both ends of the run as many as there is room for."""
    ends = [one for pair in zip(reversed(indices), indices, strict=True) for one in pair]
    kept_steps: set[int] = set()
    left = MAX_TOKENS
    for index in ends:
        if index.step not in kept_steps:
            left -= int(index.tokens_N.sum())
            if left < 0:
                break
            kept_steps.add(index.step)
    return kept_steps


def _blocks(indices: list[StepIndex]) -> list[list[StepIndex]]:
    """Consecutive steps of about BLOCK completions."""
    blocks: list[list[StepIndex]] = []
    size = BLOCK
    for index in indices:
        if size + len(index.outcome_N) > BLOCK:
            blocks.append([])
            size = 0
        blocks[-1].append(index)
        size += len(index.outcome_N)
    return blocks


def _vocabulary(run_dir: Path, run: Run) -> dict[int, str]:
    path = find_tokenizer(run_dir, model_of(run.recipe))
    return read_vocabulary(path) if path else {}
