"""Python programs: each is run anew in a sandbox, without network and without the files of this machine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from grpo.environments.builtin.tool import Tool
from rewards.sandbox import Limits, Program, SandboxName, describe, run

INSTRUCTION = (
    "You may run Python: write <{tag}>print(sum(range(10)))</{tag}>, end your turn, and you are told what it prints. "
    "A reply without it is your final answer."
)
_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)


class Python(Tool):
    """See `Tool`. A program knows nothing of the ones before; a name other than <python> is given by `tag`.

    Args:
        sandbox: auto, or a name of docs/code.md.
        limits: of rewards.sandbox.Limits, such as {cpu_seconds: 2}.
        shown: characters of what a program prints; the middle of more is left out.

    Raises SandboxError where no sandbox works.
    """

    def __init__(
        self,
        tag: str = "python",
        instruction: str = INSTRUCTION,
        role: str = "user",
        sandbox: SandboxName = "auto",
        limits: Mapping[str, float] | None = None,
        shown: int = 1000,
    ) -> None:
        super().__init__(tag, instruction, role)
        if shown < 1:
            raise ValueError(f"shown: got {shown}, expected characters, 1 or more")
        describe(sandbox)
        self._sandbox, self._limits, self._shown = sandbox, Limits(**(limits or {})), shown  # type: ignore[arg-type]

    async def use(self, text: str) -> str:
        fenced = _FENCE.match(text)
        program = Program(fenced[1] if fenced else text.strip("\n"))
        done = await asyncio.to_thread(run, program, "", self._limits, self._sandbox)
        if done.outcome == "error":  # which is none of the program's doing
            raise RuntimeError(f"the sandbox failed: {done.reason}")
        printed = self._cut(done.stdout.rstrip())
        failed = f"error: {done.reason}" if done.outcome != "ok" else ""
        return "\n".join(filter(None, (printed, failed))) or "nothing was printed"

    def _cut(self, text: str) -> str:
        half = self._shown // 2
        return text if len(text) <= self._shown else f"{text[:half]} ... {text[len(text) - half :]}"
