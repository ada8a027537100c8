"""Keys of a live display, in a real terminal: what they show, and that the terminal is given back however it ends."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from grpo.record.display import LiveDisplay
from grpo.record.latest import Latest, cropped
from tests import run_samples

ROOT = Path(__file__).parents[3]
# It sleeps in short pieces: a signal that the display's thread receives wakes no main thread from a long one.
PROGRAM = r"""
import os, sys, time
import typer
from rich.console import Console
from grpo.record.display import open_display
from recipes.errors import exit_codes

def rows(step):
    row = {"prompt_id": "sums/1", "prompt": "1+1=", "answer": "2", "reason": "it is", "reward": 1.0}
    row["outcome"] = "correct"
    return [row | {"completion": f"step {step} \x1b[31mfirst"}, row | {"completion": "second", "outcome": "wrong"}]

try:
    with exit_codes():
        display = open_display(Console(), "run", 10)
        try:
            display.step(1, {"reward": 0.5, "seconds": 1.0})
            display.completions(1, rows(1))
            display.note(f"ready {os.getpid()}.")
            while sys.argv[1] != "ends":
                time.sleep(0.05)
        finally:
            if sys.argv[1] == "hangs":
                print("putting in order", flush=True)
                while True:
                    time.sleep(0.05)
            display.close()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""
# A shell leads the session, as in life: its terminal outlives the program.
SHELL = 'trap : INT TERM; PYTHONPATH="$1" "$2" -c "$3" "$4"; echo "ended with $?."; read -r _'
AGAIN = "set -m; " + SHELL.replace('"$4"', '"$4" & wait $!')


class Terminal:
    def __init__(self, master: int) -> None:
        self.master, self.seen, self.hidden = master, "", False
        self.before = termios.tcgetattr(master)

    def until(self, pattern: str) -> str:
        """Read on to where `pattern` is, and forget what came up to there."""
        deadline = time.monotonic() + 240
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen
            self._read(1)
        self.seen = self.seen[found.end() :]
        return found.group(found.re.groups)

    def _read(self, seconds: float) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += os.read(self.master, 65536).decode(errors="replace")
            for switch in re.findall(r"\x1b\[\?25([hl])", self.seen):
                self.hidden = switch == "l"

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def local_modes(self) -> int:
        return termios.tcgetattr(self.master)[3]

    def given_back(self) -> bool:
        deadline = time.monotonic() + 120  # after a kill, a moment later
        while (self.hidden or termios.tcgetattr(self.master) != self.before) and time.monotonic() < deadline:
            self._read(0.02)
        return not self.hidden and termios.tcgetattr(self.master) == self.before


@contextmanager
def terminal(how: str, shell: str = SHELL) -> Iterator[Terminal]:
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", shell, "sh", str(ROOT), sys.executable, PROGRAM, how])
    try:
        yield Terminal(master)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(master)  # which hangs up whatever is left
        os.waitpid(pid, 0)


def test_a_key_shows_the_latest_completions_as_text_and_another_moves_on():
    with terminal("waits") as screen:
        screen.until("ready (\\d+)")
        assert not screen.local_modes() & (termios.ICANON | termios.ECHO)
        assert screen.local_modes() & termios.ISIG
        screen.until("c: the latest completions")
        screen.press("c")
        screen.until(r"completion 1 of 2 · sums/1 · reward 1 · 0 tokens")
        screen.until(r"step 1 \\x1b\[31mfirst")
        screen.press("j")
        screen.until("completion 2 of 2")
        screen.until("second")
        screen.press("jkk")  # around the end
        screen.until("completion 2 of 2")
        screen.press("zc")
        screen.until("reward")


def _signals(number: int) -> Callable[[Terminal, int], None]:
    return lambda screen, pid: os.kill(pid, number)


def _twice(screen: Terminal, pid: int) -> None:
    screen.press("\x03")
    screen.until("putting in order")
    screen.press("\x03")


@pytest.mark.parametrize(
    ("how", "ends", "code"),
    [
        ("ends", lambda screen, pid: None, 0),
        ("waits", lambda screen, pid: screen.press("\x03"), 130),
        ("waits", _signals(signal.SIGTERM), 143),
        ("waits", _signals(signal.SIGKILL), 137),
        ("hangs", _twice, 130),
    ],
)
def test_the_terminal_is_given_back(how, ends, code):
    with terminal(how) as screen:
        pid = int(screen.until(r"ready (\d+)\."))
        ends(screen, pid)
        screen.until(f"ended with {code}\\.")
        assert screen.given_back()


def test_a_job_in_the_background_leaves_the_keyboard_to_the_shell():
    with terminal("waits", AGAIN) as screen:
        pid = int(screen.until(r"ready (\d+)\."))
        screen.press("c\n")
        os.kill(pid, signal.SIGTERM)
        screen.until("ended with 143")
        assert "completion 1 of 2" not in screen.seen
        assert screen.given_back()


@pytest.mark.parametrize(
    ("text", "height", "lines"),
    [
        ("abc", 1, ["abc"]),
        ("abcdefghij\nk", 3, ["abcdefgh", "ij", "k"]),
        ("0123456789" * 30, 1, ["0123456…"]),
        ("0123456789" * 30, 4, ["01234567", "…", "45678901", "23456789"]),
        ("a\tb\u202e", 2, ["a\\tb\\u20", "2e"]),
        ("", 2, [""]),
    ],
)
def test_a_text_is_shown_whole_or_by_its_ends(text, height, lines):
    assert cropped(text, 8, height) == lines


@pytest.mark.parametrize("height", [5, 9, 40])
def test_the_view_never_takes_more_lines_than_there_are(height):
    latest = Latest()
    assert "no step" in str(latest.lines(60, height))
    latest.put(3, [{"prompt_id": "p" * 90, "prompt": "q\n" * 50, "completion": "x" * 1_000_000, "answer": "4"}])
    shown = str(latest.lines(60, height)).split("\n")
    assert len(shown) <= height
    assert all(len(line) <= 60 for line in shown)
    assert shown[-1] == "gold answer 4"


def test_the_rollouts_that_a_run_records_are_what_the_key_shows(tmp_path):
    run = run_samples.start_run(tmp_path)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    run._display = display = LiveDisplay(console, "run", 10)  # as in a terminal
    try:
        run.rollouts(4, [run_samples.row(4, 0, "<think>so it is</think><answer>42</answer>", "correct")])
        display._press("c")
        with console.capture() as captured:
            console.print(display._render())
        shown = " ".join(captured.get().split())
        for part in ("step 4 · completion 1 of 1", "<answer>42</answer>", "correct", "gold answer 42; 42 is 42"):
            assert part in shown
    finally:
        run.close()
