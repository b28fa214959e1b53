"""Devices, processes, checkpoints, the optimiser, logs and files."""
