"""Logs to batches: a raw log is prepared once, stored in mapped columns, read as packed batches."""
