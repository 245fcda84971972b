"""Which columns are ids, time, scenario and outcomes: by their names first, then by what is in them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from input_pipeline.fit import EVERY_ROW, OTHER, ROW_NUMBER, times
from input_pipeline.readers import ReadError
from input_pipeline.starter.columns import Column, quoted
from tt_jax.schema import Tower

USER_WORDS = ("user", "uid", "viewer", "member", "visitor", "customer", "client", "device", "cookie", "person")
AD_WORDS = ("ad", "creative", "item", "video", "product", "doc", "document", "movie", "song", "article", "sku",
            "listing", "post", "photo", "banner", "offer", "content")  # fmt: skip
REQUEST_WORDS = ("request", "req", "auction", "query", "session", "search", "impression")
_SIDES: dict[Tower, tuple[str, ...]] = {
    "query": (*USER_WORDS, "query", "request", "context", "ctx", "surface", "hour"),
    "ad": (*AD_WORDS, "advertiser", "campaign", "author", "publisher", "brand", "seller", "music"),
}
_SCENARIO_WORDS = ("scenario", "surface", "tab", "placement", "channel", "domain", "scene", "slot", "site", "page")
_TIME_NAMES = ("time", "timestamp", "event_time", "time_ms", "ts", "datetime", "unixtime")
_EVAL_NAMES = ("eval", "valid", "val", "validation", "dev", "test")
_NO_MOMENT = 100  # rank of a time of day and of a duration
_DAY_NAMES = ("date", "day", "dt")
_UNIX = ((1, 1e9, 2.2e9), (1e3, 1e12, 2.2e12), (1e6, 1e15, 2.2e15), (1e9, 1e18, 2.2e18))  # units a second, range
_OUTCOME = re.compile(
    "click|tap|like|follow|comment|forward|share|hate|hide|buy|bought|purchas|order|conver|install|label|target|view|"
    "watch|finish|complet|skip|sav|subscri|cart|respon|engag|redeem|signup|register|enter|income|churn|default|y$"
)
_MIN_POSITIVES = 40  # in the sample, of a task that is suggested outright
_MIN_RATE = 0.002
_MAX_TASKS = 4
_MAX_SCENARIOS = 16
_RARE = 0.005  # of the rows: a smaller scenario is `other`


@dataclass(frozen=True)
class Outcome:
    """A column that may be a task: its label as `input_pipeline.logs` reads it, `[n]` 0, 1 or NaN, and its rate."""

    name: str
    column: str
    label: str
    values: np.ndarray
    chosen: bool

    @property
    def rate(self) -> float:
        """Share of ones among the rows that have it."""
        return float(np.nanmean(self.values))


@dataclass(frozen=True)
class Roles:
    """What the columns are for; "" where there is none.

    `split` is the source text of the split, `split_reason` why it is that one, `eval_split` what is held out.
    """

    user_id: str
    ad_id: str
    request_id: str
    time: str
    split: str
    split_reason: str
    eval_split: str
    scenario: str
    scenarios: tuple[str, ...]
    other_scenarios: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    left_out: dict[str, str] = field(default_factory=dict)  # column -> why it is no feature


def roles_of(columns: Mapping[str, Column], files: Iterable[str], source: str) -> Roles:
    """The roles. Raises `ReadError` if nothing can be learned from the columns."""
    user_id, ad_id = _id_column(columns, USER_WORDS), _id_column(columns, AD_WORDS)
    request_id = _id_column(columns, REQUEST_WORDS, id_only=True)
    left_out: dict[str, str] = {}
    if request_id:
        column = columns[request_id]
        left_out[request_id] = "the request id"
        if column.distinct > 0.99 * len(column.codes):
            left_out[request_id], request_id = "an id of its own for every row", ""
    time, days = _time_column(columns)
    left_out |= dict.fromkeys(days, "a time: what may be learned of it is its hour, or the age of something")
    outcomes = _outcomes(columns, [columns[c].codes for c in (user_id, ad_id) if c], source)
    taken = {*left_out, *(o.column for o in outcomes), user_id, ad_id}
    for o in outcomes:
        left_out.setdefault(o.column, "an outcome, see TASKS" if o.chosen else "perhaps an outcome, see TASKS")
    scenarios = _scenario_columns(columns, taken)
    scenario = scenarios[0] if scenarios else EVERY_ROW
    split, reason, eval_split = _split(columns, time, files)
    return Roles(
        user_id=user_id, ad_id=ad_id or ROW_NUMBER, request_id=request_id, time=time,
        split=split, split_reason=reason, eval_split=eval_split,
        scenario=scenario, scenarios=_scenario_values(columns[scenario]) if scenarios else ("all",),
        other_scenarios=tuple(scenarios[1:]), outcomes=outcomes, left_out=left_out,
    )  # fmt: skip


def side_by_name(column: Column) -> Tower | None:
    """The tower that the first word of a name speaks of."""
    for tower, words in _SIDES.items():
        if column.words and (column.words[0] in words or column.words[0].rstrip("s") in words):
            return tower
    return None


def _id_column(columns: Mapping[str, Column], words: Iterable[str], id_only: bool = False) -> str:
    """The column `word_id`, `wordId` or `word` with more than a handful of values; "" if there is none."""
    for word in words:
        for column in columns.values():
            named = column.words in ((word, "id"), (f"{word}id",)) or (not id_only and column.words == (word,))
            if named and column.distinct > 5 and (column.is_text or column.is_whole):
                return column.name
    return ""


def _time_column(columns: Mapping[str, Column]) -> tuple[str, list[str]]:
    """The row's time, or "", and every column that is a time or a date, none of which is a feature."""
    found: dict[str, int] = {}
    for c in columns.values():
        exact = _TIME_NAMES.index(c.name.lower()) if c.name.lower() in _TIME_NAMES else None
        if c.is_time or (c.is_text and _is_iso(c)):
            found[c.name] = 0 if exact is not None else 20
            if pa.types.is_time(c.array.type) or pa.types.is_duration(c.array.type):
                found[c.name] = _NO_MOMENT
        elif c.numbers is not None and exact is not None and c.distinct > 1:
            found[c.name] = exact
        elif c.numbers is not None and {"time", "timestamp", "ts"} & set(c.words) and _unix_unit(c):
            found[c.name] = 30
        elif c.is_int and c.name.lower() in _DAY_NAMES:
            found[c.name] = 40
    usable = [n for n in found if found[n] < _NO_MOMENT and columns[n].missing < 0.01 and columns[n].distinct > 1]
    return min(usable, key=found.__getitem__, default=""), list(found)


def _is_iso(column: Column) -> bool:
    texts = column.array.drop_null()
    if not len(texts) or not re.match(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)", texts[0].as_py()):
        return False
    try:
        times(texts, column.name, "sample")
    except ReadError:
        return False
    return True


def _unix_unit(column: Column) -> float | None:
    """Units a second, if the numbers look like Unix times."""
    known = column.numbers[~np.isnan(column.numbers)] if column.numbers is not None else np.zeros(0)
    if not len(known):
        return None
    return next((unit for unit, low, high in _UNIX if low <= np.median(known) <= high), None)


def _split(columns: Mapping[str, Column], time: str, files: Iterable[str]) -> tuple[str, str, str]:
    """Source text of the split, why, and the name of what is held out."""
    words = {w for f in files for w in re.split(r"[^a-z0-9]+", f.rpartition("/")[2].lower())}
    held_out = [name for name in _EVAL_NAMES if name in words]
    if "train" in words and held_out:
        names = ", ".join(f'"{n}"' for n in ("train", *held_out))
        return f"by_name({names})", "as the files are named", held_out[0]
    if not time:
        return "every(10)", "there is no time to split by; every tenth row is held back", "eval"
    column = columns[time]
    when = np.sort(times(column.array, time, "sample").drop_null().to_numpy())
    start = int(when[len(when) * 9 // 10])
    if start == when[0]:
        return "every(10)", f"nearly all rows have the same {time!r}; every tenth row is held back", "eval"
    unit = 1e3 if column.numbers is None else _unix_unit(column)
    moment = f", {datetime.datetime.fromtimestamp(start / unit, datetime.UTC):%Y-%m-%d %H:%M} UTC" if unit else ""
    return f"by_time({quoted(time)}, {start})", f"the last tenth of the rows{moment}", "eval"


def _scenario_columns(columns: Mapping[str, Column], taken: Collection[str]) -> list[str]:
    found = []
    for word in _SCENARIO_WORDS:
        for c in columns.values():
            if word in c.words and c.name not in taken and (c.is_text or c.is_whole) and not c.is_list:
                found += [c.name] if 2 <= c.distinct <= _MAX_SCENARIOS and c.name not in found else []
    return found


def _scenario_values(column: Column) -> tuple[str, ...]:
    """As text, the most frequent first, rare ones together as `other`."""
    text = column.array.cast(pa.string())
    counts = {c["values"]: c["counts"] for c in text.value_counts().to_pylist()}
    common = [v for v in counts if v is not None and counts[v] >= _RARE * len(text)]
    common.sort(key=lambda v: -counts[v])
    return tuple(common) if len(common) == len(counts) or OTHER in common else (*common, OTHER)


# ---- Outcomes --------------------------------------------------------------------------------------------------------


def _outcomes(columns: Mapping[str, Column], ids: list[np.ndarray], source: str) -> tuple[Outcome, ...]:
    """Columns of 0 and 1 that are named as outcomes; without any, the last one of two values."""
    binary = [c for c in columns.values() if _is_binary(c)]
    varying = [c for c in binary if not any((c.depends_on(g) or 0.0) > 0.98 for g in ids)]
    named = [c for c in varying if any(_OUTCOME.match(w) for w in c.words)]
    if named:
        return _choose([(c, c.name, c.numbers) for c in named if c.numbers is not None])
    texts = [c for c in columns.values() if c.is_text and c.distinct == 2]
    named = [c for c in texts if any(_OUTCOME.match(w) for w in c.words)]
    last = (named or varying or texts)[-1:]
    if not last:
        raise ReadError(f"{source}: nothing to learn: no column has two values, 0 and 1 or two texts")
    column = last[0]
    if column.numbers is not None:
        return _choose([(column, column.name, column.numbers)])
    texts = column.array.to_pylist()
    rare = min(column.values(), key=texts.count)
    values = np.array([np.nan if t is None else float(t == rare) for t in texts])
    return _choose([(column, f"{column.name}={rare}", values)])


def _is_binary(column: Column) -> bool:
    return column.numbers is not None and column.distinct == 2 and column.values() == [0, 1]


def _choose(found: list[tuple[Column, str, np.ndarray]]) -> tuple[Outcome, ...]:
    """The most frequent ones are chosen, as long as they are not rare; one is, whatever it is like."""
    ones = {c.name: np.nansum(v) for c, _, v in found}
    ranked = sorted(ones, key=lambda name: -ones[name])
    enough = [n for n in ranked if ones[n] >= max(_MIN_POSITIVES, _MIN_RATE * len(found[0][2]))]
    chosen = set((enough or ranked)[:_MAX_TASKS])
    return tuple(Outcome(_task_name(c.name), c.name, label, v, c.name in chosen) for c, label, v in found)


def _task_name(column: str) -> str:
    return column.removeprefix("is_") or column
