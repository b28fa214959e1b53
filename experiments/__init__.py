"""Experiments: programs that measure, their records as JSON, and the pages that show them."""
