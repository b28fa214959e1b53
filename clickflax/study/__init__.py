"""Many runs: cells, statistics, tables."""

from clickflax.study.plan import Study

__all__ = ["Study"]
