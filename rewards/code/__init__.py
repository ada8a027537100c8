"""Grade programs by their tests."""
