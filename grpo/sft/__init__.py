"""Supervised fine-tuning: conversations into examples, and their trainer, on the packed, sharded step of GRPO."""
