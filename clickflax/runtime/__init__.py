"""What a run stands on: each file knows nothing of models, tasks or data."""
