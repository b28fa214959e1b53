"""Inputs of `experiments/fuzz.py`: each kind makes one at random, and judges what comes of it."""
