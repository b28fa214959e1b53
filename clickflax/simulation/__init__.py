"""`clickflax simulate`: data sets of a shop whose truth is known."""
