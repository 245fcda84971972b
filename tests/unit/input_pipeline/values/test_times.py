"""Times in every common spelling are the same moments, in every format, and rows are split by them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.logs.read import by_time
from input_pipeline.readers import ReadError, read
from input_pipeline.values.times import times, unix_ms
from tests.support import log_files

NOON = datetime.datetime(2014, 10, 21, 12, tzinfo=datetime.UTC)
MS = int(NOON.timestamp()) * 1000
SPELLINGS = {
    "2014-10-21T12:00:00Z": MS, "2014-10-21 12:00:00": MS, "2014-10-21T14:00:00.000+02:00": MS, "2014-10-21 12": MS,
    "2014-10-21T06:30:00-0530": MS, "2014-10-21 12:00:00 UTC": MS, "2014/10/21 12:00": MS,
    "2014-10-21 12:00:00.1239": MS + 123, "2014-10-21T12:00:00,5Z": MS + 500, "2014-10-21T13:00:00+01": MS,
    "2014-10-21": MS - 12 * 3_600_000, "2014102112": MS, "201410211200": MS, "20141021120000": MS, "14102112": MS,
    "19102112": MS + (datetime.date(2019, 10, 21) - datetime.date(2014, 10, 21)).days * 86_400_000,
}  # fmt: skip
UNIX = [MS // 1000, MS, MS * 1000, MS * 10**6]


def ms(values: Any) -> list[int | None]:
    return times(pa.array(values), "t", "log").to_pylist()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_time_in_any_spelling_is_unix_milliseconds(spelling: str) -> None:
    assert ms([spelling, None, "", "NULL"]) == [SPELLINGS[spelling], None, None, None]
    if spelling.isdigit():
        assert ms([int(spelling), None]) == ms([float(spelling), float("nan")]) == [SPELLINGS[spelling], None]


def test_unix_times_and_dates_as_numbers_stay_as_they_are() -> None:
    for value in (*UNIX, 20141021, 20101021, 20201021, 0, -5, 7, 99_999_999):
        assert ms([value, None]) == ms([str(value), None]) == [value, None]
    assert ms([1413892800.75]) == ms(["1413892800.75"]) == [1413892800]
    assert unix_ms(pa.array([*UNIX, 20141021, None])).to_pylist() == [MS] * 4 + [MS - 12 * 3_600_000, None]


def test_timestamps_and_dates_of_arrow() -> None:
    assert ms([NOON]) == ms([NOON.replace(tzinfo=None)]) == [MS]
    assert ms([NOON.date()]) == [MS - 12 * 3_600_000]
    for unit in ("s", "ms", "us", "ns"):
        assert times(pa.array([NOON], pa.timestamp(unit, "Europe/Berlin")), "t", "log").to_pylist() == [MS]


def test_numbers_of_which_a_few_look_like_hours_are_no_times() -> None:
    counter = np.arange(10_010_090, 10_010_190)
    assert ms(counter) == counter.tolist()


@pytest.mark.parametrize(
    "wrong", ["2014-02-30", "2014-13-01", "21/10/2014", "2014-10-21 25:00", "soon", "2014-10-21 12:60"]
)
def test_what_is_no_time_is_refused_by_file_row_column_and_value(wrong: str) -> None:
    with pytest.raises(ReadError, match=rf"log: row 41: column 't': expected a time, .*got '{wrong}'"):
        times(pa.array(["2014-10-21", wrong]), "t", "log", 40)


def test_an_hour_of_the_calendar_that_is_none_is_refused() -> None:
    with pytest.raises(ReadError, match=r"log: row 2: column 't': expected YYYYMMDDHH, got 2014102425"):
        ms([2014102112, 2014102113, 2014102425])


@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.jsonl", "file.arrow"])
@pytest.mark.parametrize(
    ("before", "after", "starts"),
    [
        ("2014-10-21T11:59:59Z", "2014-10-21T14:00:00+02:00", (MS, "2014-10-21T12:00Z")),
        (14102111, 14102112, (14102112, "2014-10-21 12:00")),
        (2014102111, 2014102112, (2014102112, "2014-10-21 12:00")),
        (20141020, 20141021, (20141021, "2014-10-21")),
        (UNIX[0] - 1, UNIX[0], (UNIX[0], "2014-10-21 12:00")),
        (UNIX[3] - 1, UNIX[3], (UNIX[3],)),
        (1, 2, (2,)),
    ],
)
def test_rows_are_split_by_time(name: str, before: Any, after: Any, starts: tuple[Any, ...], tmp_path: Path) -> None:
    log_files.WRITERS[name](pa.table({"t": [after, before, None], "n": [1, 2, 3]}), tmp_path / name)
    ((file, first_row, table),) = read(tmp_path / name)
    for start in starts:
        assert by_time("t", start)(file, first_row, table).tolist() == ["eval", "train", "train"], start
