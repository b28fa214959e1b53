"""`clickflax baselines`: rankings and label models that need no accelerator."""
