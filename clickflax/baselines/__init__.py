"""What one would try first on the question of a config: counts, and features made by hand."""
