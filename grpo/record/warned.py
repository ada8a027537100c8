"""Warnings of a run, kept with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PACKAGES = ("grpo", "recipes", "rewards", "eval")


@contextmanager
def warnings_to(log: Callable[[str], None]) -> Iterator[None]:
    """Within it, what these packages warn of is given to `log`, too; it is printed as ever."""
    handlers: list[logging.Handler] = [_Log(log)]
    if not logging.getLogger().handlers and logging.lastResort:  # which prints only where there is no other
        handlers.append(logging.lastResort)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    for logger in loggers:
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            for handler in handlers:
                logger.removeHandler(handler)


class _Log(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a full disk is said by who cannot go on
            self._log(f"{record.levelname.lower()}: {record.getMessage()}")
