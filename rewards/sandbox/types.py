"""What is run, what it may use, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewards.sandbox.languages import LANGUAGES, Language
from rewards.sandbox.tools import SandboxName

__all__ = ["Execution", "Limits", "Program", "RunOutcome", "SandboxName"]

# ok: it ended with code 0. failed: with another, or by a signal. forbidden: it asked the kernel for what no program
# here may do, a network or a mount. error: the sandbox failed, which says nothing about the program.
RunOutcome = Literal["ok", "failed", "compile_error", "timeout", "memory", "output", "forbidden", "error"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a program may use, with all the processes that it starts.

    Raises ValueError if a limit is not above 0.

    Example: Limits(cpu_seconds=2, memory_mib=512)
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 15.0  # above the CPU's, so that a busy machine makes no honest program late
    memory_mib: int = 1024
    processes: int = 32  # and threads
    output_kib: int = 1024  # of stdout, and as much of stderr
    disk_mib: int = 64  # of /tmp
    compile_seconds: float = 30.0  # of CPU, for a compiler; as many again on a busy machine

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected a number above 0")


@dataclass(frozen=True, slots=True)
class Program:
    """A program's text and what it is written in: a name of languages.py, or a Language. Raises ValueError if unknown.

    Example: Program("print(input()[::-1])")
    """

    source: str
    language: str | Language = "python"

    @property
    def spoken(self) -> Language:
        return self.language if isinstance(self.language, Language) else LANGUAGES[self.language]

    def __post_init__(self) -> None:
        if isinstance(self.language, str) and self.language not in LANGUAGES:
            raise ValueError(f"language: got {self.language!r}, expected one of {', '.join(LANGUAGES)}, or a Language")


@dataclass(frozen=True, slots=True)
class Execution:
    """What came of one run. Texts are cut at the limit; what is no UTF-8 in them is replaced.

    Example: Execution("failed", "12\\n", "Traceback ...", exit_code=1, seconds=0.03, reason="ended with code 1: ...")
    """

    outcome: RunOutcome
    stdout: str
    stderr: str
    exit_code: int | None  # -n: ended by signal n; None: it was killed for what it used, or never ran
    seconds: float  # of CPU
    reason: str  # "" if ok
