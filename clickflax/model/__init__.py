"""The model as flax.linen modules: embedder, encoder, heads."""
