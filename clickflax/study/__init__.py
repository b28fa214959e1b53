"""Many runs: cells, statistics, tables."""

from clickflax.study.plan import Study, time_folds

__all__ = ["Study", "time_folds"]
