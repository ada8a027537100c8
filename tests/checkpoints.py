"""What lies where in a checkpoint."""

from grpo.policy.checkpoint import STATE

STATE_FILE = f"{STATE}/__0_0.distcp"  # the trainer's tensors, of a single rank
