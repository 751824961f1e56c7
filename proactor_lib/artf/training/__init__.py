"""Training: episodes, rollouts, rows, losses, the trainer, and what a run leaves to read."""
