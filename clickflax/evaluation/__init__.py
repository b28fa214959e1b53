"""`clickflax evaluate`: metrics of a run on a split, and their record."""
