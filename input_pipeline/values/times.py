"""Times of a log in any common spelling, as whole numbers: see docs/reference/formats.md."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.sources.source import ReadError
from input_pipeline.values.parse_text import NO_NUMBER
from tt_jax.features.arrow import plain
from tt_jax.features.columns import decoded

_TEXT = (
    r"^(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    r"(?:[T ]+(?P<hour>\d{1,2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?)?"
    r" ?(?P<zone>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
_NUMBER = r"^-?\d+(?:\.\d+)?$"
_FIRST_YEAR, _LAST_YEAR = 1990, 2099  # of times written as digits
_FORMS = {  # YYMMDDHH of 2020 is left out: 20101021 could be a date
    "YYYYMMDDHH": ("hour",),
    "YYYYMMDDHHMM": ("hour", "minute"),
    "YYYYMMDDHHMMSS": ("hour", "minute", "second"),
    "YYMMDDHH": ("hour",),
}
_MS = {"day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1000}


def times(column: pa.Array, name: str, file: str, first_row: int = 0) -> pa.Array:
    """A time column as int64 `[n]`, null where it is missing.

    Unix milliseconds of timestamps, dates, ISO text (UTC where it says no zone), and of digits as YYYYMMDDHH,
    YYYYMMDDHHMM, YYYYMMDDHHMMSS or YYMMDDHH, if most of the column are of one of these forms. Other numbers, as Unix
    times in any unit and dates YYYYMMDD, stay as they are, without a fraction. Text of digits is as the number.

    Raises `ReadError` naming file, row (`first_row` is that of the first value), column and value.
    """
    column = plain(decoded(column))
    t = column.type
    if pa.types.is_timestamp(t) or pa.types.is_date(t):
        return pc.cast(pc.cast(column, pa.timestamp("ms"), safe=False), pa.int64())
    if pa.types.is_string(t):
        return _of_text(column, name, file, first_row)
    if not (pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t) or pa.types.is_null(t)):
        raise ReadError(f"{file}: column {name!r}: expected times, got {t}")
    if not pa.types.is_integer(t):
        column = column.cast(pa.float64())
        column = pc.floor(pc.if_else(pc.is_finite(column), column, None))
    try:
        return _of_digits(column.cast(pa.int64()), name, file, first_row)
    except pa.ArrowInvalid as e:
        raise ReadError(f"{file}: column {name!r}: expected times: {str(e).splitlines()[0]}") from None


def unix_ms(when: pa.Array) -> pa.Array:
    """What `times` gives, of Unix times in any unit and dates YYYYMMDD, as Unix milliseconds."""
    values = pc.fill_null(when, 0).to_numpy()
    size = np.abs(values)
    units = [size < limit for limit in (10**11, 10**14, 10**17)]
    result = np.select(units, [values * 1000, values, values // 1000], values // 10**6)
    dates, good = _calendar(values, "YYYYMMDD", ())
    return pa.array(np.where(good, dates, result), mask=np.asarray(when.is_null()))


def _of_text(texts: pa.Array, name: str, file: str, first_row: int) -> pa.Array:
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.is_in(texts, pa.array(NO_NUMBER)), None, texts)
    as_number = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    numbers = pc.if_else(as_number, texts, None)
    whole = pc.replace_substring_regex(numbers, r"\..*", "")
    try:
        digits = _of_digits(whole.cast(pa.int64()), name, file, first_row)
    except pa.ArrowInvalid:
        raise ReadError(f"{file}: column {name!r}: expected times, got numbers beyond 64 bits") from None
    written, wrong = _of_iso(pc.if_else(as_number, None, texts))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ReadError(
            f"{file}: row {first_row + row}: column {name!r}: expected a time, as 2024-01-31 15:00:00+01:00 or "
            f"1706709600, got {texts[row].as_py()!r}"
        )
    return pc.if_else(as_number, digits, written)


def _of_iso(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Unix milliseconds of ISO text, and where it is none, bool `[n]`."""
    parts = pc.extract_regex(texts, _TEXT)
    parsed = np.asarray(parts.is_valid())
    valid = np.asarray(texts.is_valid())

    def part(name: str, missing: int = 0) -> np.ndarray:
        text = pc.fill_null(parts.field(name), "")
        return pc.if_else(pc.equal(text, ""), str(missing), text).cast(pa.int64()).to_numpy()

    fields = {name: part(name, 1 if name in ("month", "day") else 0) for name in ("year", "month", "day", *_MS)}
    ms, good = _milliseconds(fields)
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.fill_null(parts.field("fraction"), ""), 3, "0"), 0, 3)
    zone = pc.replace_substring_regex(pc.fill_null(parts.field("zone"), ""), "[A-Za-z:]", "")
    zone = pc.utf8_rpad(pc.if_else(pc.equal(zone, ""), "+0000", zone), 5, "0")
    sign = np.where(np.asarray(pc.starts_with(zone, "-")), -1, 1)
    minutes = pc.utf8_slice_codeunits(zone, 1).cast(pa.int64()).to_numpy()
    ms += fraction.cast(pa.int64()).to_numpy() - sign * (minutes // 100 * 60 + minutes % 100) * _MS["minute"]
    good &= parsed
    return pa.array(ms, mask=~good), valid & ~good


def _of_digits(numbers: pa.Array, name: str, file: str, first_row: int) -> pa.Array:
    """Whole numbers, as Unix milliseconds if more than half of those above 0 are times of one form of the calendar."""
    values = pc.fill_null(numbers, 0).to_numpy()
    positive = values > 0
    for form, names in _FORMS.items():
        ms, good = _calendar(values, form, names)
        if 2 * good.sum() > positive.sum():
            if (bad := positive & ~good).any():
                row = int(np.argmax(bad))
                raise ReadError(f"{file}: row {first_row + row}: column {name!r}: expected {form}, got {values[row]}")
            values = np.where(good, ms, values)
            break
    return pa.array(values, mask=np.asarray(numbers.is_null()))


def _calendar(values: np.ndarray, form: str, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Unix milliseconds of digits of a form, and which of them are of it, bool `[n]`."""
    unit, century = 100 ** len(names), 0 if form.startswith("YYYY") else 2000
    date, rest = values // unit, values % unit
    fields = {"year": date // 10_000 + century, "month": date // 100 % 100, "day": date % 100}
    good = (values >= 10 ** (len(form) - 1)) & (values < 10 ** len(form))
    good &= (fields["year"] >= _FIRST_YEAR) & (fields["year"] <= _LAST_YEAR)
    if century:
        good &= fields["year"] != 2020
    fields["year"] = np.where(good, fields["year"], 1970)
    fields |= {name: rest // 100**i % 100 for i, name in enumerate(reversed(names))}
    ms, exists = _milliseconds(fields)
    return ms, good & exists


def _milliseconds(fields: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Unix milliseconds of fields of the calendar, and whether there is such a time, bool `[n]`."""
    year, month, day = (fields[name] for name in ("year", "month", "day"))
    good = (month >= 1) & (month <= 12)
    first = ((year - 1970) * 12 + np.where(good, month, 1) - 1).astype("M8[M]")
    days = (first + 1).astype("M8[D]") - first.astype("M8[D]")
    good &= (day >= 1) & (day <= days.astype(np.int64))
    ms = (first.astype("M8[D]").astype(np.int64) + day - 1) * _MS["day"]
    for name, most in (("hour", 23), ("minute", 59), ("second", 60)):
        if name in fields:
            good &= fields[name] <= most
            ms = ms + fields[name] * _MS[name]
    return ms, good
