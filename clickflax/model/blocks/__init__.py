"""Blocks of the encoder, one file each."""
