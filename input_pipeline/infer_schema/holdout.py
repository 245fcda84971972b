"""Which column is the time of a row, and by what rows are held out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from input_pipeline.infer_schema.sampled_columns import Column, quoted
from input_pipeline.readers import ReadError
from input_pipeline.values.times import times, unix_ms

_NAMES = ("time", "timestamp", "event_time", "event_timestamp", "time_ms", "ts", "datetime", "unixtime", "time_stamp",
          "event_ts", "request_time", "log_time", "server_time", "created_at", "created")  # fmt: skip
_WORDS = {"time", "timestamp", "ts", "datetime", "unixtime", "epoch", "stamp", "created", "occurred", "logged"}
_GLUED = re.compile(r"(event|log|click|view|request|impression|unix|review|server|created|show|expose|exposure)"
                    r"(time|timestamp|ts|date|at|datetime)$")  # fmt: skip
_CALENDAR = {"date", "day", "dt", "hour", "ds", "hr", "ymd", "yyyymmdd", "week"}
_DAYS = ("date", "day", "dt", "ds")  # also of days that are counted
_LOOKS = re.compile(r"\s*\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ,]|$)|\s*\d{4}[-/]\d\d$")
_UNREAD = re.compile(r"\d{1,2}([-/.])(\d{1,2}|[A-Za-z]{3})\1\d{2,4}\b|[A-Z][a-z]{2},? \w{2,3} \w{2,3} ")
_EVAL_NAMES = ("eval", "valid", "val", "validation", "dev", "test")
_FIRST_DATE, _LAST_DATE = 19_000_101, 21_001_231  # YYYYMMDD
_LEAST_TO_TRAIN = 0.3  # of the rows, by a split by time
_MISSING = 0.1  # of the rows may be without their time
_NO_MOMENT = 100  # rank of a time of day and of a duration
_UNIX = ((1, 5e8, 2.2e9), (1e3, 5e11, 2.2e12), (1e6, 5e14, 2.2e15), (1e9, 5e17, 2.2e18))  # units a second, range
IS_TIME = "a time: what may be learned of it is its hour, or the age of something"
NOT_READ = "a time in a spelling that is not read: write it as 2024-01-31 15:00:00, or as a Unix time"


def time_of(columns: Mapping[str, Column], groups: Sequence[np.ndarray]) -> tuple[str, dict[str, str]]:
    """The row's time, or "", and of every column that is a time or a date why it is no feature.

    A time that all rows of a user or an ad share (`groups`, the codes of both) is not the row's.
    """
    ranks = {c.name: rank for c in columns.values() if (rank := _rank(c)) is not None}
    left_out = dict.fromkeys(ranks, IS_TIME)
    left_out |= {c.name: NOT_READ for c in columns.values() if c.name not in ranks and _is_unread(c)}
    usable = [
        name
        for name, rank in ranks.items()
        if rank < _NO_MOMENT
        and columns[name].missing < _MISSING
        and columns[name].distinct > 1
        and not any((columns[name].depends_on(g, exactly=True) or 0.0) > 0.98 for g in groups)
    ]
    return min(usable, key=ranks.__getitem__, default=""), left_out


def _is_unread(column: Column) -> bool:
    """Whether it is of times in a spelling that is not read: by its look, or by its name if it has many values."""
    if not column.is_text:
        return False
    first = column.array.drop_null()[:10].to_pylist()
    return any(_UNREAD.match(t) or _LOOKS.match(t) for t in first) or (_is_named(column) and column.counts is None)


def _is_named(column: Column) -> bool:
    return bool(_WORDS & set(column.words) or any(_GLUED.fullmatch(w) for w in column.words))


def _rank(column: Column) -> int | None:
    """How likely it is the time of the row, lower is better; None if it is no time."""
    lower = "_".join(column.words)
    exact = _NAMES.index(lower) if lower in _NAMES else None
    if pa.types.is_time(column.array.type) or pa.types.is_duration(column.array.type):
        return _NO_MOMENT
    named = _is_named(column)
    calendar = bool(_CALENDAR & set(column.words))
    if column.is_time or (column.is_text and _reads_as_times(column, named or calendar)):
        return exact if exact is not None else 20 if named else 25
    if column.numbers is None or column.distinct < 2 or column.is_truth:
        return None
    if not column.is_whole:  # Unix seconds may have a fraction
        return (30 if exact is None else exact) if named and _unix_unit(column.numbers) else None
    if exact is not None:
        return exact
    if named and _unix_unit(column.numbers):
        return 30
    is_day = column.is_int and lower in _DAYS
    return 40 if is_day or (calendar and _is_calendar(column)) else None


def _reads_as_times(column: Column, named: bool) -> bool:
    texts = column.array.drop_null()
    if not len(texts) or not (_LOOKS.match(texts[0].as_py()) or named):
        return False
    try:
        times(texts, column.name, "sample")
    except ReadError:
        return False
    return True


def _is_calendar(column: Column) -> bool:
    """Whether whole numbers are dates (YYYYMMDD, YYYYMMDDHH, YYMMDDHH) or Unix times."""
    assert column.numbers is not None
    known = column.numbers[~np.isnan(column.numbers)]
    if not len(known) or _unix_unit(known):
        return bool(len(known))
    digits = {len(str(int(v))) for v in (known.min(), known.max())}
    return digits <= {8, 10, 12, 14}


def _unix_unit(numbers: np.ndarray) -> float | None:
    """Units a second, if the numbers look like Unix times."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return None
    return next((unit for unit, low, high in _UNIX if low <= np.median(known) <= high), None)


def split_of(columns: Mapping[str, Column], time: str, files: Mapping[str, int]) -> tuple[str, str, str, float]:
    """Source text of the split, why, the name of what is held out, and the share of the rows to train on.

    `files`: of the log, and the rows of each.
    """
    words_of = {f: re.split(r"[^a-z0-9]+", f.lower()) for f in files}
    words = {w for f in files for w in re.split(r"[^a-z0-9]+", f.rpartition("/")[2].lower())}
    held_out = [name for name in _EVAL_NAMES if name in words]
    if "train" in words and held_out:
        names = ("train", *held_out)
        quoted_names = ", ".join(f'"{n}"' for n in names)
        train = sum(n for f, n in files.items() if [w for w in words_of[f] if w in names][-1:] == ["train"])
        return f"by_name({quoted_names})", "as the files are named", held_out[0], train / sum(files.values())
    if not time:
        return _every(files, "there is no time to split by")
    known = columns[time].array.drop_null()
    read = times(known, time, "sample")
    known, when = known.filter(read.is_valid()), read.drop_null().to_numpy(zero_copy_only=False)  # a NaN is no null
    tenth = np.sort(when)[len(when) * 9 // 10]
    later = when[when > tenth]
    starts = {int(t): float((when < t).mean()) for t in (tenth, *([later.min()] if len(later) else []))}
    begin, train = min(starts.items(), key=lambda item: abs(item[1] - 0.9))
    if train < _LEAST_TO_TRAIN:
        return _every(files, f"nearly all rows have the same {time!r}")
    first = int(np.flatnonzero(when == begin)[0])
    last = "tenth" if 0.88 < train < 0.92 else f"{1 - train:.0%}"
    start, moment = _moment(when, first)
    if columns[time].numbers is not None:  # as the column has it
        start = str(int(known[first].as_py()))
    return f"by_time({quoted(time)}, {start})", f"the last {last} of the rows{moment}", "eval", train


def _every(files: Mapping[str, int], why: str) -> tuple[str, str, str, float]:
    """Rows of each file; of small files so many that one of the largest is held out."""
    n = max(2, min(10, max(files.values())))
    held_out = "every tenth row" if n == 10 else f"the last of every {n} rows"
    return f"every({n})", f"{why}; {held_out} is held back", "eval", 1 - 1 / n


def _moment(when: np.ndarray, row: int) -> tuple[str, str]:
    """The time of a row, as source text and for people."""
    if when[row] < 10**9 and not _FIRST_DATE <= when[row] <= _LAST_DATE and _unix_unit(when.astype(float)) is None:
        return str(when[row]), ""
    at = datetime.datetime.fromtimestamp(unix_ms(pa.array(when[row : row + 1]))[0].as_py() / 1000, datetime.UTC)
    exact = f"{at:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".") if at.microsecond else f"{at:%Y-%m-%d %H:%M:%S}"
    return f'"{exact}"', f", {at:%Y-%m-%d %H:%M} UTC"
