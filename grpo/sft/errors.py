"""What is wrong with the data or the chat template of supervised fine-tuning."""


class SFTError(ValueError):
    """The data or the chat template cannot be trained on. The message says what to do."""


class RowError(SFTError):
    """One row cannot be learned from."""
