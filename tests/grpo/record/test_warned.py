"""Warnings are kept with the run, and printed as ever."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from grpo.record.warned import warnings_to


def test_a_warning_is_logged_once_and_nothing_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # Libraries that other tests of this process imported may have set these for all.
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    ours = logging.getLogger("grpo.of_this_test")  # others may have been switched off by a library's configuration
    ours.setLevel(logging.WARNING)
    with warnings_to(said.append):
        ours.warning("%s is lost", "server 1")
        ours.info("not this")
        logging.getLogger("somebody.else").warning("nor this")
    ours.warning("nor what comes later")
    assert said == ["warning: server 1 is lost"]


def test_it_is_printed_once_with_and_without_handlers_of_the_users_own() -> None:
    program = """
import logging, sys
from grpo.record.warned import warnings_to
if sys.argv[1:]:
    logging.basicConfig(format="%(message)s")
with warnings_to(lambda _: None):
    logging.getLogger("grpo.x").warning("said")
"""
    for arguments in ([], ["own"]):
        line = [sys.executable, "-c", program, *arguments]
        assert subprocess.run(line, capture_output=True, text=True, check=True).stderr == "said\n"
