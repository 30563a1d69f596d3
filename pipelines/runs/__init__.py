"""A run on disk: its folder, state and checkpoints, how it is opened and listed."""
