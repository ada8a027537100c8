"""Run programs that a model wrote, where they can do no harm."""

from rewards.sandbox.host import together
from rewards.sandbox.languages import Language
from rewards.sandbox.run import AT_ONCE, run, run_all, run_each
from rewards.sandbox.tools import SandboxError, describe
from rewards.sandbox.types import Execution, Limits, Program, SandboxName

__all__ = [
    "AT_ONCE",
    "Execution",
    "Language",
    "Limits",
    "Program",
    "SandboxError",
    "SandboxName",
    "describe",
    "run",
    "run_all",
    "run_each",
    "together",
]
