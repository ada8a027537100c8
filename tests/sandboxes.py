"""Whether a sandbox works on this machine: tests that need one are skipped, with the reason, where it does not."""

from __future__ import annotations

import pytest

from rewards.sandbox import SandboxError, SandboxName
from rewards.sandbox.tools import find


def needs(name: SandboxName = "auto") -> pytest.MarkDecorator:
    try:
        find(name)
    except SandboxError as error:
        return pytest.mark.skip(reason=str(error))
    return pytest.mark.skipif(False, reason="")
