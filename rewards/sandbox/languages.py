"""How a program of a language is made and run: command lines, as a shell would take them, in the folder of its file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Language:
    """A language: the name of a program's file, the line that runs it, and one that compiles it before, if any.

    Whatever is under /usr can be named. Example: Language("lua", file="main.lua", run="lua main.lua")
    """

    name: str
    file: str
    run: str
    compile: str | None = None
    wrap: str = "@"  # what the program's text stands in, for @

    def __post_init__(self) -> None:
        if not self.file or "/" in self.file or self.file.startswith("."):
            raise ValueError(f"language {self.name}: file: got {self.file!r}, expected a name such as main.lua")
        for key, line in (("run", self.run), ("compile", self.compile)):
            if line is not None and not _words(line):
                raise ValueError(f"language {self.name}: {key}: got {line!r}, expected a command, as lua {self.file}")

    @property
    def in_process(self) -> bool:
        """Python, which starts in the interpreter that waits in the sandbox."""
        return self.run == PYTHON


PYTHON = "python3 main.py"


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []


LANGUAGES: Mapping[str, Language] = {
    language.name: language
    for language in (
        Language("python", "main.py", PYTHON),
        Language("c++", "main.cpp", "./main", "g++ -std=c++17 -O2 -o main main.cpp"),
        Language("c", "main.c", "./main", "gcc -std=c17 -O2 -o main main.c -lm"),
        Language("javascript", "main.js", "node main.js"),
        Language("bash", "main.sh", "bash main.sh"),
        Language("perl", "main.pl", "perl main.pl"),
        Language("expression", "main.py", PYTHON, wrap="print(@\n)"),  # of Python: what it is worth is printed
    )
}


def language_named(given: Any) -> Language:
    """A built-in language by its name, or one of a mapping {name, file, run, compile}. Raises ValueError."""
    if isinstance(given, Language):
        return given
    if isinstance(given, str) and given in LANGUAGES:
        return LANGUAGES[given]
    if isinstance(given, Mapping) and {"name", "file", "run"} <= set(given) <= {"name", "file", "run", "compile"}:
        return Language(**{str(key): str(value) for key, value in given.items() if value is not None})
    known = ", ".join(LANGUAGES)
    raise ValueError(f"language: got {given!r}, expected one of {known}, or {{name: lua, file: main.lua, run: ...}}")
