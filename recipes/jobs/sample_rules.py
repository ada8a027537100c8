"""Which samples are kept, and how many fall to each rule, counted at the first rule that they break."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eval.problems.benchmarks import benchmark, load_problems
from eval.types import Generation
from recipes.schema.sample import SampleSettings
from rewards.builtin.language import language_consistency
from rewards.builtin.repetition import repetition_penalty

_WORD = re.compile(r"\w+")


def kept(generations: Iterable[Generation], settings: SampleSettings) -> tuple[list[Generation], Counter[str]]:
    """Those that pass every rule, in their order; and how many each rule stopped."""
    chosen: list[Generation] = []
    fallen: Counter[str] = Counter()
    of_problem: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for generation in generations:
        text = " ".join(generation.completion.split())
        rule = broken(generation, settings)
        if rule is None and (generation.problem_id, text) in seen:
            rule = "duplicate"
        if rule is None and of_problem[generation.problem_id] == settings.per_problem:
            rule = "more than per_problem"
        if rule:
            fallen[rule] += 1
            continue
        seen.add((generation.problem_id, text))
        of_problem[generation.problem_id] += 1
        chosen.append(generation)
    return chosen, fallen


def broken(generation: Generation, settings: SampleSettings) -> str | None:
    """The first rule of its own that a sample breaks."""
    text, tokens = generation.completion, generation.tokens or 0
    if generation.failure is not None:
        return "failed"
    if generation.value is None:
        return "not graded"
    if settings.right and generation.value != 1.0:
        return "wrong"
    if generation.finish_reason == "length":
        return "cut off"
    if tokens < settings.min_tokens:
        return "shorter than min_tokens"
    if settings.max_tokens is not None and tokens > settings.max_tokens:
        return "longer than max_tokens"
    if "\ufffd" in text or (not text.isprintable() and any(not c.isprintable() and not c.isspace() for c in text)):
        return "not readable"
    if -repetition_penalty([text])[0] > settings.max_repetition:
        return "repeats itself"
    if settings.language:
        share = language_consistency([text], settings.language)[0]
        if share is not None and share < settings.min_consistency:
            return "another language"
    return None


class Apart:
    """The problems of benchmarks, to keep what is trained on apart from them.

    Raises DataError: no such benchmark, or it cannot be loaded.
    """

    def __init__(self, names: Sequence[str], data_dir: Path | None, n: int) -> None:
        self._n = n
        self._ngrams: set[tuple[str, ...]] = set()
        self._short: set[tuple[str, ...]] = set()
        for name in names:
            for problem in load_problems(benchmark(name), data_dir).problems:
                words = _words(problem.question)
                if len(words) < n:
                    self._short.add(words)
                self._ngrams.update(_ngrams(words, n))

    def overlaps(self, question: str) -> bool:
        """Whether it has n words in a row in common with a benchmark's problem, or is one that has fewer."""
        words = _words(question)
        return words in self._short or any(ngram in self._ngrams for ngram in _ngrams(words, self._n))


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
