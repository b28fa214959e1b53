"""Engines that read and transform raw logs: DuckDB and Spark."""
