"""Which columns are tasks: by their names first, then by what is in them; and how a label is read from each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline.infer_schema.name_words import SCENARIO_WORDS, is_of_the_auction, side_of
from input_pipeline.infer_schema.sampled_columns import Column
from input_pipeline.readers import ReadError
from input_pipeline.values.label_expression import Comparison

_ACTION = (
    "click|clk|tapp?|lik|dislik|upvot|downvot|vot|follow|comment|repl|forward|shar|retweet|repost|hat|hid|hidden|report"
    "|buy|bought|purchas|order|checkout|pay|paid|transact|conver|convert|convers|conv|attribut|install|download"
    "|label|target|outcome|respon|reward|success|feedback|view|visit|watch|listen|play|read|finish|complet|skip|sav"
    "|fav|favorit|favourit|collect|bookmark|wish|subscrib|subscript|cart|basket|engag|interact|redeem|redempt|signup"
    "|regist|registrat|register|enter|appl|lead|income|churn|default|positiv|donat|book|rating|rated|stars|overall"
)
_ENDING = "(e|s|es|d|ed|ded|ing|y|ied|ies|se|ses|er|ion|ions|e?ments?|through|flag|label|num|cnt|counts?)?"
_NAMED = re.compile(rf"(is|has|had|did|was|if|add|to|addto|long|valid|n|num|user|ad|item|post)?({_ACTION}){_ENDING}|y")
_SURELY = re.compile(rf"(is|has|n|num)?(click|clk|label|target|convers|convert|purchas|outcome){_ENDING}")
_NEGATED = re.compile(rf"(^|_)(non|no|not|un)_?({_ACTION}){_ENDING}(_|$)")
_RATING = re.compile(r"(^|_)(ratings?|rated|stars?|overall)(_|$)|^rate$")
_COUNT_WORDS = {"n", "nb", "num", "no", "number", "cnt", "count", "counts", "times", "of", "total", "amount", "value"}
_PLAIN_WORDS = _COUNT_WORDS | {
    "is", "has", "had", "did", "was", "if", "user", "ad", "item", "to", "add", "the", "on", "in", "up", "flag", "label",
    "ind", "indicator", "bool", "long", "short", "valid", "effective", "post", "after", "through", "really", "star",
}  # fmt: skip
_OTHER_WORDS = re.compile(  # a column with one of them is about an action, but is not whether it was taken
    r"(rate|ratio|avg|mean|std|hist|history|past|last|prev|previous|recent|ctr|cvr|time|timestamp|ts|date|day|days|hour"
    r"|hours|minutes|seconds|ms|sec|id|ids|type|name|category|code|price|cost|bid|pred|predicted|prob|pctr|pcvr|score"
    r"|\d+d|duration|language|text|title|url|viewer|buyer|reader|listener|player|subscriber|follower|average|age)$"
)
_EVENT = re.compile(r"(user_|item_)?(event|action|behaviou?r|interaction|activity)(_?(type|name|code|kind))?$")
_YES = re.compile(rf"(y|yes|t|true|1|1\.0|\+1|pos|positive|good|{_ACTION})")
_NO = re.compile(r"(n|no|f|false|0|0\.0|-1|neg|negative|none|nan|bad)$|no[nt]?[ _-]?\w|un\w|impress|expos|skip|ignor")
_OF_PEOPLE = {"gender", "sex", "male", "female", "married", "marital", "os", "platform", "country", "language", "new",
              "vip", "premium", "weekend", "holiday", "mobile", "gdpr", "consent", "test", "train", "treatment",
              "control", "group", "variant", "rand", "random"}  # fmt: skip
_FEW = 0.05  # rows of other values than the two of an outcome: strays below it
_MIN_POSITIVES = 40  # in the sample, of a task that is suggested outright
_MIN_RATE = 0.002
_MAX_TASKS = 4
_MAX_EVENTS = 8
_ZEROS = 0.2  # of the rows at least have the amount 0
_LISTED = 6


@dataclass(frozen=True)
class Outcome:
    """A column that may be a task.

    Attributes:
      name: of the task.
      column: that it is of.
      label: as `input_pipeline.logs.read` reads it, the column or a comparison.
      values: float64 [n], 0, 1 or NaN where there is none.
      note: which values it has, or "".
      remark: what is doubtful about it, or "".
      chosen: whether it is suggested outright.
    """

    name: str
    column: str
    label: str
    values: np.ndarray
    note: str = ""
    remark: str = ""
    chosen: bool = True

    @property
    def rate(self) -> float:
        """Share of ones among the rows that have it."""
        return float(np.nanmean(self.values))


def outcomes_of(columns: Mapping[str, Column], ids: Sequence[np.ndarray], source: str) -> tuple[Outcome, ...]:
    """Columns named as outcomes, whatever their values; without any, one of two values.

    What all rows of a user or of an ad have in common (`ids`, the codes of both) is no outcome. Raises `ReadError`.
    """
    plain = [c for c in columns.values() if not c.is_list and (c.is_text or c.numbers is not None)]
    varying = [c for c in plain if not any((c.depends_on(g) or 0.0) > 0.98 for g in ids)]
    sure, unsure = [], []
    for column in varying:
        strength = 0 if column.is_joined else _strength(column)
        for made in _read(column) if strength else ():
            is_whether = made.label == column.name
            if is_whether or (strength > 1 and not _is_amount(column)):
                sure.append(made)
            elif strength > 1 or not made.label.startswith(f"{column.name}>"):
                unsure.append(made)
    if sure or unsure:
        return _choose(sure, unsure) if sure else _choose(unsure, [])
    doubts = "".join(map(_doubt, plain))
    return _choose(_last_resort(varying, doubts, source), [])


def is_opposite(column: Column) -> bool:
    """Whether it says that an action was not taken, as `nonclk` does: the answer, turned round."""
    return _NEGATED.search("_".join(column.words)) is not None and len(column.counts or ()) == 2


def is_unread(column: Column) -> bool:
    """Whether it is a click, a label or the like by its name, with values that cannot be understood."""
    known = not column.is_list and (column.is_text or column.numbers is not None) and column.distinct > 1
    named = any(_SURELY.fullmatch(w) for w in column.words)
    return known and named and _strength(column) == 2 and not column.is_joined and not _read(column)


def _strength(column: Column) -> int:
    """2: the name is that of an outcome; 1: there is the word of one in it; 0."""
    words, name = column.words, "_".join(column.words)
    if is_opposite(column) or is_of_the_auction(words):
        return 0
    if _EVENT.match(name) or _RATING.search(name):
        return 0 if any(_OTHER_WORDS.match(w) for w in words if w not in ("type", "name", "code")) else 2
    others = [w for w in words if _OTHER_WORDS.match(w) and not (w in ("ctr", "cvr") and words[-1] == "label")]
    if others or not any(_NAMED.fullmatch(w) for w in words):
        return 0
    of_side = side_of(words) and (_COUNT_WORDS & set(words) or words[-1].endswith("s"))  # `user_clicks`, `ad_like_num`
    plain = all(w in _PLAIN_WORDS or w.isdigit() or _NAMED.fullmatch(w) for w in words)
    return 2 if plain and not of_side else 1


def _is_amount(column: Column) -> bool:
    """Numbers of many values, as of money."""
    return column.numbers is not None and column.counts is None


def _read(column: Column) -> list[Outcome]:
    """The tasks of a column; none if its values cannot be one."""
    counts = column.counts or {}
    by_count = sorted(counts, key=lambda v: -counts[v])
    if column.is_list or column.is_time:
        return []
    if len(counts) > 2 and _EVENT.match("_".join(column.words)):
        start = "" if column.is_text else f"{column.name} "
        return [_made(column, f"{column.name}={_text(v)}", name=start + _text(v)) for v in by_count[1:_MAX_EVENTS]]
    if column.numbers is not None:
        return _of_numbers(column, by_count)
    others = sum(counts[v] for v in by_count[2:])
    if not column.is_text or len(counts) < 2 or others > _FEW * sum(counts.values()):
        return []
    yes = _positive(by_count[0], by_count[1])
    return [_made(column, f"{column.name}={yes}", f"values {_listed(by_count)}", _strays(counts, by_count[:2]))]


def _of_numbers(column: Column, by_count: Sequence[float]) -> list[Outcome]:
    """See docs/how-to/write_a_schema.md, "Tasks"."""
    name, counts = column.name, column.counts
    assert column.numbers is not None
    known = column.numbers[~np.isnan(column.numbers)]
    if counts is None:
        is_amount = len(known) and known.min() == 0 and (known == 0).mean() > _ZEROS
        return [_made(column, f"{name}>0", f"from 0 to {known.max():,.4g}")] if is_amount else []
    values = sorted(counts)
    listed = f"values {_listed(values)}"
    if len(values) < 2:
        return []
    if _RATING.search("_".join(column.words)) and len(values) > 2:
        return [_made(column, f"{name}>={_text(_rating_limit(values, known))}", listed)]
    if values == [0, 1]:
        return [_made(column, name)]
    ones, more = (sum(n for v, n in counts.items() if v > least) for least in (0, 1))
    whole = all(v == np.floor(v) for v in values)
    if len(values) > 2 and whole and values[0] == 0 and (more > _FEW * ones or _COUNT_WORDS & set(column.words)):
        return [_made(column, f"{name}>0", listed)]
    if sum(counts[v] for v in by_count[2:]) <= _FEW * sum(counts.values()):
        strays = _strays(counts, by_count[:2])
        return [_made(column, f"{name}={_text(max(by_count[:2]))}", listed, strays)]
    return [_made(column, f"{name}>0", listed)] if values[0] <= 0 < values[-1] else []


def _rating_limit(values: Sequence[float], known: np.ndarray) -> float:
    """Four fifths of the highest value, as 4 of 5; the one nearest to half of the rows if none or all reach that."""
    limit = 0.8 * values[-1]
    if 0 < (known >= limit).mean() < 1:
        return next(v for v in values if v >= limit)
    return min(values[1:], key=lambda v: abs((known >= v).mean() - 0.5))


def _positive(often: str, rare: str) -> str:
    """Which of two texts is the action: one that says so, or the other of one that denies it, else the rarer one."""
    texts = (often, rare)
    denied = [bool(_NO.match(t.strip().lower())) for t in texts]
    said = [bool(_YES.match(t.strip().lower())) and not no for t, no in zip(texts, denied, strict=True)]
    for matches in (said, [not no for no in denied]):
        if sum(matches) == 1:
            return texts[matches.index(True)]
    return rare


def _values(column: Column) -> str:
    return "many" if column.counts is None else _listed(sorted(column.counts, key=str))


def _strays(counts: Mapping[Any, int], two: Sequence[Any]) -> str:
    """What is known of the values that are neither of the two."""
    strays = {v: n for v, n in counts.items() if v not in two}
    if not strays:
        return ""
    rows = sum(strays.values())
    return f"0 in {rows:,} row{'s' if rows > 1 else ''} of other values ({_listed(list(strays))})"


def _listed(values: Sequence[Any]) -> str:
    """The first ones, and the last one if there are many."""
    shown = [repr(v) if isinstance(v, str) else _text(v) for v in values]
    return ", ".join(shown if len(shown) <= _LISTED else [*shown[: _LISTED - 1], "...", shown[-1]])


def _text(value: Any) -> str:
    """As it is compared with."""
    return value if isinstance(value, str) else str(int(value)) if value == int(value) else repr(float(value))


def _made(column: Column, label: str, note: str = "", remark: str = "", name: str = "") -> Outcome:
    compared = Comparison.of(label, [column.name])
    values = column.array.cast(pa.float64()) if compared is None else compared.holds(column.array, "sample")
    numbers = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    without = column.rows - sum(column.counts.values()) if column.counts is not None else 0
    notes = (note, f"none in {without:,} rows" if without > 0 else "")
    return Outcome(_task_name(name or column.name), column.name, label, numbers, "; ".join(filter(None, notes)), remark)


def _doubt(column: Column) -> str:
    """Why a column is no outcome, though its name says so; or ""."""
    if column.distinct < 2 and _strength(column) == 2:
        return f"; {column.name!r} is the same in all rows"
    return f"; {column.name!r} has values that are not understood: {_values(column)}" if is_unread(column) else ""


def _last_resort(columns: Sequence[Column], doubts: str, source: str) -> list[Outcome]:
    """The last column of two values that is not of a side, of a person, or of where an ad is shown, if there is one."""
    candidates = [(c, _read(c)) for c in columns if c.counts is not None and len(c.counts) == 2 and not is_opposite(c)]
    candidates = [(c, made) for c, made in candidates if made]
    if not candidates:
        raise ReadError(f"{source}: nothing to learn: no column is an outcome by its name, or has two values{doubts}")

    def likely(column: Column) -> tuple[bool, bool]:
        words = set(column.words)
        return not (side_of(column.words) or words & _OF_PEOPLE or words & set(SCENARIO_WORDS)), not column.is_text

    _, made = max(reversed(candidates), key=lambda pair: likely(pair[0]))
    remark = f"no column is an outcome by its name, and this one has two values{doubts}"
    return [replace(made[0], remark=remark)]


def _choose(first: list[Outcome], then: list[Outcome]) -> tuple[Outcome, ...]:
    """Of the first ones the most frequent are chosen, as long as they are not rare; one is, whatever it is like."""
    ones = [float(np.nansum(o.values)) for o in first]
    ranked = sorted(range(len(first)), key=lambda i: -ones[i])
    enough = [i for i in ranked if ones[i] >= max(_MIN_POSITIVES, _MIN_RATE * len(first[i].values))]
    chosen = set((enough or ranked)[: _MAX_TASKS if enough else 1])
    result = [replace(o, chosen=i in chosen) for i, o in enumerate(first)]
    return _named_apart([*result, *(replace(o, chosen=False) for o in then)])


def _named_apart(outcomes: list[Outcome]) -> tuple[Outcome, ...]:
    names: dict[str, int] = {}
    for i, o in enumerate(outcomes):
        names[o.name] = names.get(o.name, 0) + 1
        if names[o.name] > 1:
            outcomes[i] = replace(o, name=f"{o.name}_{names[o.name]}")
    return tuple(outcomes)


def _task_name(column: str) -> str:
    """A word that may stand in `utility`."""
    name = re.sub(r"\W+", "_", column).strip("_")
    name = name.removeprefix("is_") or name
    return name if name.isidentifier() else f"task_{name}"
