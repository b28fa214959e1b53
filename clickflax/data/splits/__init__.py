"""Splits of a log into training, validation and test."""
