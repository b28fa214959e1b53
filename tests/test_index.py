"""Times in every format, numbers, and tokens."""

import numpy as np
import pytest
from logs import SECOND, UIT, prepared, sequences, write_parquet

from clickflax.data.store import open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns


@pytest.mark.parametrize(
    "values, options, seconds",
    [
        (["881250949", "881250950.25"], {}, [881250949, 881250950.25]),
        (["1000000000123", "1000000000124"], {}, [1000000000.123, 1000000000.124]),
        (["1000000000123456", "1000000000123457"], {}, [1000000000.123456, 1000000000.123457]),
        (["1000000000000000000", "1000000000123456000"], {}, [10**9, 1000000000.123456]),
        (["5", "6"], {"time_format": "ms"}, [0.005, 0.006]),
        (["1970-01-02", "1970-01-03T00:00:01.5Z"], {}, [86400, 172801.5]),
        (["1970-01-01 02:00:00+02:00", "1970-01-01T01:00:00"], {}, [0, 3600]),
        (["01.02.1970 03:04", "01.03.1970 03:04"], {"time_format": "%d.%m.%Y %H:%M"},
            [2689440, 5108640]),
        (["1970-01-01 01:00:00", "1970-07-01 01:00:00Z"], {"time_zone": "Europe/Berlin"},
            [0, 15642000]),
        (["-1.5", "0"], {}, [-1.5, 0]),
    ],
)  # fmt: skip
def test_times_are_microseconds_of_utc(tmp_path, values, options, seconds):
    text = f'u,i,t\n1,a,"{values[0]}"\n1,b,"{values[1]}"\n'
    data = prepared(tmp_path, text, **options)
    assert data.columns["time"].tolist() == [round(s * SECOND) for s in seconds]


def test_first_times_that_could_have_several_units_are_an_error(tmp_path):
    text = "u,i,t\n1,a,1000000000\n1,b,1000000000000\n"
    with pytest.raises(ValueError, match=r"from 1000000000 to 1000000000000: .*--time-format=ms"):
        prepared(tmp_path, text)
    data = prepared(tmp_path, text, time_format="ms")
    assert data.columns["time"].tolist() == [10**12, 10**15]


def test_timestamps_of_parquet_are_in_the_zone_of_the_option(tmp_path):
    write_parquet(
        tmp_path / "log.parquet",
        "SELECT * FROM (VALUES (1, 'a', TIMESTAMP '1970-01-01 01:00:00'), "
        "(1, 'b', TIMESTAMP '1970-07-01 02:00:00')) AS t(u, i, t)",
    )
    options = Options(columns=parse_columns(UIT), time_zone="Europe/Berlin")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", options)
    # Berlin had no summer time in 1970
    assert open_dataset(tmp_path / "out").columns["time"].tolist() == [
        0,
        (181 * 86400 + 3600) * SECOND,
    ]


def test_a_number_that_is_nan_in_parquet_is_missing_and_not_bad(tmp_path):
    rows = "(1, 'a', 2.5::FLOAT), (1, 'b', 'nan'::FLOAT), (1, 'b', NULL)"
    write_parquet(tmp_path / "log.parquet", f"SELECT * FROM (VALUES {rows}) AS t(u, i, p)")
    columns = parse_columns("sequence=u,item=i,price=p")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", Options(columns))
    data = open_dataset(tmp_path / "out")
    assert np.array_equal(data.columns["price"], [2.5, np.nan, np.nan], equal_nan=True)
    assert data.info["variables"]["price"] == {"kind": "numeric", "mean": 2.5, "std": 0.0}


def test_tokens_keep_their_text_except_whole_fractions(tmp_path):
    data = prepared(tmp_path, 'u,i,t\n007,"a,b",1\n7,"x ""y""",2\n007, c,3\n')
    assert sequences(data) == {"007": ["a,b", " c"], "7": ['x "y"']}
    write_parquet(
        tmp_path / "log.parquet", "SELECT * FROM (VALUES (7.0, 1.5), (NULL, 2), (7, 3)) AS t(u, i)"
    )
    columns = parse_columns("sequence=u,item=i")
    prepare("log", tmp_path / "log.parquet", tmp_path / "two", Options(columns))
    assert sequences(open_dataset(tmp_path / "two")) == {"7": ["1.5", "3"]}


def test_a_text_without_header_has_columns_1_2_3(tmp_path):
    data = prepared(tmp_path, "1;a\n1;b\n", columns="sequence=1,item=2", header=False)
    assert sequences(data) == {"1": ["a", "b"]}
