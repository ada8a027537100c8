"""A comparison in words, for the terminal."""

from __future__ import annotations

from eval.stats.compare import Comparison, listed


def render(comparison: Comparison, most: int = 10) -> str:
    """The comparison in words, with at most so many of the problems that flipped."""
    lines = [_headline(comparison), *_accuracies(comparison), _power(comparison), *_flipped(comparison, most)]
    for ids, what in (
        (comparison.only_a, "only in A"),
        (comparison.only_b, "only in B"),
        (comparison.ungraded, "without a graded answer in A or in B"),
        (comparison.shortened, "a completion had less room than max_tokens"),
    ):
        if ids:
            lines.append(f"  Left out, {what}: {listed(ids)}")
    return "\n".join(lines)


def _headline(c: Comparison) -> str:
    value, low, high = (_points(share) for share in (c.difference.value, c.difference.low, c.difference.high))
    return (
        f"{c.benchmark}: {_verdict(c)}. B - A = {value}, 95% interval {low} to {high} points, p = {_p(c.p_value)}, "
        f"{_count(c.n, 'problem')}"
    )


def _verdict(c: Comparison) -> str:
    """The interval and the p-value are two computations: near the border they may disagree."""
    shown = [c.p_value < 0.05, not c.difference.low <= 0 <= c.difference.high]
    if not any(shown):
        return "no difference shown"
    better = "B" if c.difference.value > 0 else "A"
    return f"{better} is better" if all(shown) else f"on the border, {better} may be better"


def _accuracies(c: Comparison) -> list[str]:
    return [
        f"  {name} {100 * accuracy.value:.1f}% [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}], "
        f"{_count(round(samples, 1), 'sample')} a problem"
        for name, accuracy, samples in (("A", c.a, c.samples[0]), ("B", c.b, c.samples[1]))
    ]


def _power(c: Comparison) -> str:
    if c.n < 2:
        return "  One problem says nothing about others."
    shown = 100 * c.detectable
    text = f"  So many problems and samples show a difference of {shown:.1f} points four times in five."
    if c.problems_needed and c.p_value >= 0.05:
        text += f" The observed one would need {_count(c.problems_needed, 'problem')}"
        text += f", or {_count(c.samples_needed, 'sample')} of each of these." if c.samples_needed else "."
    return text


def _flipped(c: Comparison, most: int) -> list[str]:
    better = sum(flip.share_b > flip.share_a for flip in c.flips)
    if not c.flips:
        return ["  No problem flipped."]
    lines = [f"  {_count(len(c.flips), 'problem')} flipped, {better} in favour of B:"]
    for flip in c.flips[:most]:
        sides = ((flip.answer_a, flip.share_a), (flip.answer_b, flip.share_b))
        a, b = (f"{_short(answer)} ({100 * share:.0f}% right)" for answer, share in sides)
        lines.append(f"    {flip.problem_id}  gold {_short(flip.gold)}  A {a}  B {b}")
    return [*lines, f"    and {len(c.flips) - most} more"] if len(c.flips) > most else lines


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # never -0.0


def _p(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 0.0001 else "less than 0.0001"


def _count(number: float, noun: str) -> str:
    return f"{number:,g} {noun}{'' if number == 1 else 's'}"


def _short(text: str | None) -> str:
    if text is None:
        return "no answer"
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."
