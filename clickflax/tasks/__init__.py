"""Tasks: targets, losses and metrics."""
