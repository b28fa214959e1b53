"""`clickflax recommend`: batched inference and recommendations."""
