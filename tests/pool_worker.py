"""What a pool's worker may have to answer, without the mathematics: it loops, allocates, dies, raises, or answers."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rewards.pool import serve
from rewards.verdict import Verdict


def answer(item: Mapping[str, str]) -> Verdict:
    match item["do"]:
        case "loop":
            while True:
                pass
        case "allocate":
            return "correct", str(len(bytearray(8 * 2**30)))
        case "die":
            os._exit(7)
        case "raise":
            raise ValueError("raised")
        case "print":
            print("correct")
    return "correct", item["do"]


if __name__ == "__main__":
    serve(answer)
