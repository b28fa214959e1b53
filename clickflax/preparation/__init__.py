"""`clickflax prepare`: raw logs to prepared data sets."""
