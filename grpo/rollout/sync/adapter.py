"""A LoRA adapter in the place of new weights: a server loads it beside those of the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grpo.rollout.sync.control import ControlPlane


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as peft saves it. Example: Adapter(version=3, folder=Path("run/adapters/3"), owner="5c1f")

    The folder must stay as it is while completions may still be using it. `owner`: the connection that loaded it; a
    server that outlives a run, or was out of reach for a while, knows the adapters from before by name.
    """

    version: int
    folder: Path
    owner: str

    @property
    def name(self) -> str:
        """What requests call it; a new name for each version, so that no cached key or value is of another one."""
        return f"zero-{self.owner}-{self.version}"


async def load_adapter(control: ControlPlane, adapter: Adapter, superseded: Adapter | None) -> None:
    """Make a server ready for requests that name the adapter, and drop one that nobody uses any more."""
    new = {"lora_name": adapter.name, "lora_path": str(adapter.folder.absolute())}
    await control.post("/v1/load_lora_adapter", new)
    if superseded is not None:
        await control.post("/v1/unload_lora_adapter", {"lora_name": superseded.name})
