"""Rewards as users write them, and as nobody should."""

from __future__ import annotations

import subprocess
import time

SLOW = 0.1  # seconds a group, so that a step takes long enough to be hit


def brevity(completions, **_):
    """Harmless. Hardly a group is without contrast, so that every step has a gradient."""
    time.sleep(SLOW)
    return [1.0 / (1 + len(completion)) for completion in completions]


def daemon(completions, **_):
    """Each call leaves a process in a session of its own, as a tool that a reward starts may."""
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    return brevity(completions)


def double_fork(completions, **_):
    """The same by the old recipe for daemons: fork, setsid, fork."""
    subprocess.run(["sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 &"], check=True)
    return brevity(completions)


def hang(completions, trainer_state=None, **_):
    """Never answers in step 2. Needs a short timeout."""
    if trainer_state.global_step == 1:
        time.sleep(3600)
    return brevity(completions)


def surrogate(completions, log_extra=None, **_):
    """Logs text that no UTF-8 can hold."""
    log_extra("note", ["\ud800 half a pair"] * len(completions))
    return brevity(completions)


def hostile_answers(completions, **_):
    """Grades what models wrote that broke graders."""
    from rewards import verify

    asked = [r"\boxed{x \neq}", r"\boxed{(10^{10})!}", "\\boxed{\ud800}", r"\boxed{" * 500, r"\boxed{1/0 \le}"]
    values = [verify(asked[i % len(asked)], "1").value or 0.0 for i in range(len(completions))]
    return [value + base for value, base in zip(values, brevity(completions), strict=True)]
