"""`clickflax simulate`: data sets of a simulated shop with known probabilities."""
