"""`clickflax baselines`: models that need no training on a device."""
