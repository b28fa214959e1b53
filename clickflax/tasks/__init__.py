"""Answers to loss and metrics: what is asked, what is hidden, and how wrong an answer is."""
