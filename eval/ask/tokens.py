"""How many tokens a prompt has, as the server would read it: of prompts that we have no tokenizer for.

    /tokenize {"model", "prompt" or "messages"} -> {"count"}        vLLM; SGLang, of a text
    /apply-template {"messages"} -> {"prompt"}                      llama.cpp, of a chat; then
    /tokenize {"content"} -> {"tokens"}                             llama.cpp

Which of them a server speaks is found out by asking it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grpo.types import Prompt

Post = Callable[[str, Mapping[str, object]], Awaitable[Any]]  # path, body -> the answer's JSON
Count = Callable[[Post, str, Prompt], Awaitable[int | None]]  # of the model of that name; None: no such answer


def prompt_of(prompt: Prompt) -> dict[str, Any]:
    """What of a request is the prompt."""
    if prompt.messages and not prompt.token_ids:
        return {"messages": [dict(message) for message in prompt.messages]}
    return {"prompt": list(prompt.token_ids) or prompt.text}


async def by_count(post: Post, name: str, prompt: Prompt) -> int | None:
    count = _of(await post("/tokenize", {"model": name, **prompt_of(prompt)}), "count")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


async def by_content(post: Post, name: str, prompt: Prompt) -> int | None:
    asked, text = prompt_of(prompt), prompt.text
    if "messages" in asked:
        text = _of(await post("/apply-template", asked), "prompt")
    if not isinstance(text, str) or not text:
        return None
    body = {"content": text, "add_special": True, "parse_special": True}
    tokens = _of(await post("/tokenize", body), "tokens")
    return len(tokens) if isinstance(tokens, list) and tokens else None


WAYS: tuple[Count, ...] = (by_count, by_content)


async def find_way(post: Post, name: str, prompt: Prompt) -> Count | None:
    """The way in which the server counts; None if it does not. `post` gives None for whatever fails."""
    for way in WAYS:
        if await way(post, name, prompt) is not None:
            return way
    return None


def read_json(content: bytes) -> Any:
    """None where it is none."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def _of(answer: Any, key: str) -> Any:
    return answer.get(key) if isinstance(answer, dict) else None
