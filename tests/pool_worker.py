"""What a pool's worker may have to answer, without the mathematics: it loops, allocates, dies, raises, or answers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from rewards.verifier.pool import serve
from rewards.verifier.verdict import Verdict


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
        case "late":  # replies to items that were given up come first, in one piece
            os.write(REPLIES, b"".join(json.dumps([-n, "wrong", "late"]).encode() + b"\n" for n in range(3)))
        case "print":
            print("correct")
    return "correct", item["do"]


REPLIES = 3  # the first descriptor that `serve` opens

if __name__ == "__main__":
    serve(answer)
