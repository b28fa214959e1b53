"""`clickflax prepare`: raw logs become prepared data sets."""
