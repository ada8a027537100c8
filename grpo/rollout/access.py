"""Who may speak to a server: the token that its paths demand, and the run that a request is for.

The token is read from the environment alone: no command line, log, recipe or run directory ever holds it.
"""

from __future__ import annotations

import json
import os
import re

TOKEN_VARIABLE = "ZERO_SERVER_TOKEN"
RUN_HEADER = "Zero-Run"  # names the run that a request is for; a server refuses it while it belongs to another one
LEASE = "/zero/lease"  # path of a server's lease, see vllm/guard.py
NOT_YOURS = 423  # Locked (RFC 4918): what a server says to a run that it does not belong to; vLLM never does
HOW = f"set one on both sides: export {TOKEN_VARIABLE}=$(openssl rand -hex 32), and the same value where runs start"


class AccessError(ValueError):
    """A server would be open to others, or closed to us. One message: what is wrong, and what to do."""


def token() -> str:
    """The token in the environment, "" if there is none. Raises AccessError if no header could carry it."""
    found = os.environ.get(TOKEN_VARIABLE, "")
    if found and not re.fullmatch(r"[!-~]+", found):
        raise AccessError(f"{TOKEN_VARIABLE}: expected printable ASCII without spaces; {HOW}")
    return found


def headers(run: str = "") -> dict[str, str]:
    """What every request to a server of ours carries. `run`: the one that it is for, if it is for one."""
    found = {"Authorization": f"Bearer {known}"} if (known := token()) else {}
    return found | ({RUN_HEADER: run} if run else {})


def refused(url: str) -> str:
    """What is said of a server that answered 401."""
    if token():
        return f"{url} does not take the token in {TOKEN_VARIABLE} (401); give it the one that the server started with"
    return f"{url} demands a token (401); set {TOKEN_VARIABLE} to the one that the server was started with"


def taken(url: str, answer: bytes) -> str:
    """The sentence about a server that answered NOT_YOURS, which says whose it is."""
    try:
        lease = json.loads(answer)
        holder, seconds = lease["holder"], lease["seconds"]
    except (ValueError, KeyError, TypeError):
        holder = seconds = None
    if not holder:
        return f"{url} does not belong to this run any more: it was started anew, or its lease was given back"
    return (
        f"{url} belongs to another run ({holder}): two runs would sample from each other's weights. Stop that one, "
        "attach another server (rollout.server.urls), or wait: if that process is gone, the server is free within "
        f"{seconds} s"
    )
