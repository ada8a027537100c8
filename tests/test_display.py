"""What is shown: a panel in a terminal, lines elsewhere."""

import io
import math

import pytest
from rich.console import Console

from grpo.display import BARS, LineDisplay, LiveDisplay, Pace, interval, open_display, show, sparkline
from grpo.duration import duration

METRICS = {
    "reward": 0.5,
    "accuracy": 0.25,
    "length": 31.4,
    "entropy": 0.8,
    "truncated": 0.125,
    "tokens_per_second": 1234.0,
    "seconds": 3.0,
}


def lines_of(total_steps: int = 10) -> tuple[LineDisplay, io.StringIO]:
    out = io.StringIO()
    return LineDisplay(Console(file=out, width=80), total_steps), out


def test_output_that_is_no_terminal_gets_lines_even_when_colours_are_forced():
    console = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(open_display(console, "run", 10), LineDisplay)


def test_a_step_is_one_line_aligned_with_its_heading():
    display, out = lines_of()
    display.step(1, METRICS)
    display.step(2, {**METRICS, "entropy": None, "reward": -12.25})
    heading, first, second = out.getvalue().splitlines()
    assert heading.split() == ["step", "reward", "accuracy", "length", "entropy", "tokens/s", "seconds", "left"]
    assert first.split() == ["1/10", "0.500", "25.0%", "31.4", "0.800", "1,234", "3.0", "27s"]
    assert second.split() == ["2/10", "-12.250", "25.0%", "31.4", "-", "1,234", "3.0", "24s"]
    assert len(heading) == len(first) == len(second)


def test_lines_repeat_the_heading_and_leave_out_the_stages_within_steps():
    display, out = lines_of(60)
    display.stage("starting the vLLM server")
    for step in range(1, 31):
        display.step(step, METRICS)
        display.stage(f"step {step + 1}: sampling")
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("s] starting the vLLM server")
    assert sum(line.startswith("step ") for line in lines) == 2  # before steps 1 and 26
    assert len(lines) == 1 + 2 + 30


def test_lines_are_printed_as_they_are_brackets_included():
    display, out = lines_of()
    display.note("[bold]reward[/bold] " + "x" * 200)
    display.evaluation(0, {"accuracy": 0.38, "low": 0.321, "high": 0.442, "n": 256})
    assert out.getvalue().splitlines() == [
        "[bold]reward[/bold] " + "x" * 200,
        "held-out accuracy after step 0: 38.0% [32.1, 44.2] of 256 problems",
    ]


def test_the_panel_shows_stage_numbers_trend_and_both_ends_of_held_out_accuracy():
    console = Console(file=io.StringIO(), force_terminal=True, width=110)
    display = LiveDisplay(console, "Zero: tiny on arithmetic", 10)
    try:
        for step in (1, 2):
            display.step(step, {**METRICS, "reward": float(step)})
        for step, accuracy in ((0, 0.3), (5, 0.5), (10, 0.9)):
            display.evaluation(step, {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n": 64})
        display.stage("step 3: training")
        with console.capture() as captured:
            console.print(display._render())
    finally:
        display.close()
    text = captured.get()
    for part in ("Zero: tiny on arithmetic", "step 2/10", "24s left", "step 3: training", BARS[0] + BARS[-1], "12.5%"):
        assert part in text
    assert "30.0% [25.0, 35.0] at step 0  →  90.0% [85.0, 95.0] at step 10" in text
    assert "50.0%" not in text


def test_time_left_is_the_median_of_the_last_ten_steps_times_what_remains():
    pace = Pace(100)
    assert pace.left() == "-"
    for step in range(1, 6):
        pace.step(step, {"seconds": 100.0})  # warm-up, forgotten after ten more
    for step in range(6, 16):
        pace.step(step, {"seconds": 2.0 if step != 10 else 60.0})
    assert pace.left() == "2m 50s"  # 85 steps of 2 s


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([3.0, 3.0], "▁▁"),
        ([0.0, 1.0], "▁█"),
        ([0.0, 0.0, 7.0, 7.0], "▁█"),  # two values a bar
        ([0.0, 4.0, 8.0], "▁█"),  # the bars hold (0 + 4) / 2 or 0, and the rest
    ],
)
def test_a_trend_spans_the_whole_history_from_its_lowest_to_its_highest(values, bars):
    assert sparkline(values, width=2) == bars


def test_numbers_are_written_for_people():
    assert [duration(s) for s in (0.4, 59.6, 185, 7800)] == ["0s", "1m 00s", "3m 05s", "2h 10m"]
    assert interval({"accuracy": 0.38, "low": 0.321, "high": 0.442}) == "38.0% [32.1, 44.2]"
    assert [show(v, "{:.1f}") for v in (1.25, None, math.nan)] == ["1.2", "-", "-"]
