"""A question, and a tool that the model may use on the way to its answer.

    <calculator>12*(3+4)</calculator>      a reply that uses the tool; every use of it is answered
    <result>84</result>                    what the environment says to that
    ... <answer>84</answer>                a reply that does not use it is the last one

There is no score of its own: the task's rewards read the last reply.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Tool(ABC):
    """
    Args:
        tag: which the model writes around what the tool is to do.
        role: of the messages with results. Most chat templates know user, some tool.
        instruction: put after the question; {tag} is replaced.
    """

    def __init__(self, tag: str, instruction: str, role: str = "user") -> None:
        if not re.fullmatch(r"\w+", tag):
            raise ValueError(f"tag: got {tag!r}, expected letters, digits and _")
        self._role, self._instruction = role, instruction.replace("{tag}", tag)
        self._use = re.compile(rf"<{tag}>(.*?)</{tag}>", re.DOTALL)

    @abstractmethod
    async def use(self, text: str) -> str:
        """What the tool says to the text between the tags."""

    def start(self, row: Mapping[str, Any]) -> str:
        return "\n".join(filter(None, (row["question"], self._instruction)))

    async def step(self, reply: str) -> dict[str, str] | None:
        results = [await self.use(text) for text in self._use.findall(reply)]
        if not results:
            return None
        return {"role": self._role, "content": "\n".join(f"<result>{result}</result>" for result in results)}
