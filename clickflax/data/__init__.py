"""Prepared data sets and the batches made of them: numpy, never JAX."""
