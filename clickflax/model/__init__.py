"""Batch to answers: pure functions of parameters."""
