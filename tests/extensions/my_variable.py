"""A derived variable in one file: whether an event is on a Saturday or Sunday, in UTC.

import my_variable  # in a config file, with c.data.variables = ("item", "is_weekend")
"""

import numpy as np

from clickflax.batch import RESERVED
from clickflax.data.derived import VARIABLES, Column, event_times
from clickflax.data.durations import DAY
from clickflax.data.store import Dataset


@VARIABLES.register("is_weekend")
def is_weekend(dataset: Dataset, argument: str) -> Column:
    """Id RESERVED on workdays and RESERVED + 1 on weekends."""
    days = event_times(dataset, "is_weekend") // DAY
    thursday = 3  # the first day of 1970; Monday is 0
    weekend = (days + thursday) % 7 >= 5
    return Column((RESERVED + weekend).astype(np.int32), size=RESERVED + 2)
