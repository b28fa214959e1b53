"""Studies: many runs, their statistics, tables and reports."""

from clickflax.study.plan import Study, time_folds

__all__ = ["Study", "time_folds"]
