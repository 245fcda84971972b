"""The feature that a column makes: its kind, its sizes and its tower."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.infer_schema.leaks import leak_by_auc, leak_by_name
from input_pipeline.infer_schema.name_words import side_of
from input_pipeline.infer_schema.roles import GuessedRoles
from input_pipeline.infer_schema.sampled_columns import Column
from tt_jax.schema import TOWERS, DType, Feature, Tower, Transform

DIM, SMALL_DIM = 16, 8
_MAX_VOCABULARY = 24
_MAX_SLOTS = 50
_CATEGORY_WORDS = {
    "id", "code", "type", "category", "cat", "cate", "recode", "zip", "zipcode", "postcode", "onehot", "class",
    "segment", "version", "region", "city", "country", "brand", "channel", "os", "model", "carrier", "browser", "store",
    "seller",
}  # fmt: skip
_NUMBER_WORDS = {"age", "num", "number", "count", "days", "hours", "minutes", "seconds", "amount", "length", "len"}
_HISTORY_WORDS = {"seq", "sequence", "history", "hist", "recent", "last", "past", "previous"}
_SKEWED = 2.0
_OF_A_GROUP = 0.5  # see `Column.depends_on`


@dataclass(frozen=True)
class Features:
    """The features, each with what was seen of it; and for the other columns why they are none. `guessed`: on which
    side each one is."""

    features: list[tuple[Feature, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    guessed: bool = False


def features_of(columns: Mapping[str, Column], roles: GuessedRoles) -> Features:
    """A feature of every column that may be one."""
    result = Features(left_out=dict(roles.left_out))
    for column in columns.values():
        why = result.left_out.get(column.name) or _unusable(column) or leak_by_name(column)
        if why or (why := leak_by_auc(column, roles.outcomes)):
            result.left_out[column.name] = why
            continue
        tower = tower_of(column, columns, roles)
        made = _scenario(column, roles) if column.name == roles.scenario else _feature(column, tower, columns, roles)
        if isinstance(made, str):
            result.left_out[column.name] = made
        else:
            result.features.append(made)
    result.features.sort(key=lambda made: TOWERS.index(made[0].tower))
    return result


def tower_of(column: Column, columns: Mapping[str, Column], roles: GuessedRoles) -> Tower:
    """By the name, else of the ad if the rows of an ad have it in common, else of the query."""
    if column.name == roles.ad_id:
        return "ad"
    by_name = side_of(column.words)
    if column.name in (roles.user_id, roles.scenario) or by_name:
        return by_name or "query"

    def shared_by(name: str) -> float:
        return (column.depends_on(columns[name].codes) if name in columns else None) or 0.0

    if shared_by(roles.request_id) > 0.98 and roles.request_id:
        return "query"
    of_ad = shared_by(roles.ad_id)
    return "ad" if of_ad > _OF_A_GROUP and of_ad > shared_by(roles.user_id) else "query"


def _unusable(column: Column) -> str:
    if not column.is_list and not column.is_text and column.numbers is None:
        return f"its type is {column.array.type}"
    if column.is_list and not len(column.elements[1]):
        return "its lists are empty"
    if column.numbers is not None and np.isnan(column.numbers).all():
        return "none of the rows seen has a value"
    if _may_be_rounded(column):
        return "whole numbers of 2^53 and more, stored as floats, which may have been rounded: store them as integers"
    return "the same in all rows" if column.distinct < 2 and not (column.distinct and column.missing) else ""


def _may_be_rounded(column: Column) -> bool:
    """Whether it seems to be of ids that are no integers by their type."""
    if column.numbers is None or column.is_int:
        return False
    known = np.abs(column.numbers[~np.isnan(column.numbers)])
    return bool(len(known) and (known == np.floor(known)).all() and np.median(known) >= 2**53 and known.max() < 2**64)


def _scenario(column: Column, roles: GuessedRoles) -> tuple[Feature, str]:
    feature = Feature(column.name, "categorical", "query", "string", SMALL_DIM, vocabulary=roles.scenarios)
    return feature, "the scenario"


def _feature(
    column: Column, tower: Tower, columns: Mapping[str, Column], roles: GuessedRoles
) -> tuple[Feature, str] | str:
    note = f", {column.missing:.0%} missing" if column.missing >= 0.005 else ""
    if column.is_list:
        made = _of_lists(column, tower, columns, roles)
    elif column.is_text or _is_category(column, roles):
        made = _category(column, tower, roles)
    else:
        made = _number(column, tower)
    return made if isinstance(made, str) else (made[0], (made[1] + note).removeprefix(", "))


def _is_category(column: Column, roles: GuessedRoles) -> bool:
    if column.name in (roles.user_id, roles.ad_id):
        return True
    if column.distinct > 2 and _NUMBER_WORDS & set(column.words) and column.words[-1] != "range":
        return False
    few = column.counts is not None and column.distinct <= _MAX_VOCABULARY
    return column.is_whole and (few or bool(_CATEGORY_WORDS & set(column.words)))


def _category(column: Column, tower: Tower, roles: GuessedRoles) -> tuple[Feature, str] | str:
    dtype: DType = "string" if column.is_text else "int"
    an_id = column.name in (roles.user_id, roles.ad_id)
    if column.counts is not None and column.distinct <= _MAX_VOCABULARY and not an_id:
        vocabulary = tuple(column.values())
        return Feature(column.name, "categorical", tower, dtype, SMALL_DIM, vocabulary=vocabulary), ""
    if not an_id and column.distinct > 0.95 * (column.codes >= 0).sum():
        return "nearly every row has a value of its own"
    return Feature(column.name, "categorical", tower, dtype, DIM, hash_size=table_size(column.distinct)), (
        f"{column.distinct:,} values in the sample"
    )


def table_size(distinct: int) -> int:
    """Rows of a hashed table: four to eight times the ids seen, a power of two, at least 1,024."""
    return max(1024, 2 ** int(np.ceil(np.log2(4 * distinct))))


def _number(column: Column, tower: Tower) -> tuple[Feature, str]:
    assert column.numbers is not None
    known = column.numbers[~np.isnan(column.numbers)]
    transform: Transform = "none"
    if known.min() >= 0 and abs(_skewness(known)) > max(_SKEWED, abs(_skewness(np.log1p(known)))):
        transform = "log1p"
    values = np.log1p(known) if transform == "log1p" else known
    scale = max(float(np.abs(values).max()), 1.0)  # the square of a large number is none
    feature = Feature(
        column.name, "numeric", tower, transform=transform, mean=_short(scale * (values / scale).mean()),
        std=_short(scale * (values / scale).std()) or 1.0, indicator=column.missing > 0,
    )  # fmt: skip
    return feature, f"{known.min():,.4g} to {known.max():,.4g}"


def _skewness(values: np.ndarray) -> float:
    values = values / max(float(np.abs(values).max()), 1.0)
    std = values.std()
    with np.errstate(over="ignore", invalid="ignore"):
        return float((((values - values.mean()) / std) ** 3).mean()) if std else 0.0


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _of_lists(
    column: Column, tower: Tower, columns: Mapping[str, Column], roles: GuessedRoles
) -> tuple[Feature, str] | str:
    elements = Column(column.name, column.elements[1])
    lengths = column.lengths[column.lengths > 0]
    if elements.numbers is not None and not elements.is_int:
        if len(set(lengths.tolist())) == 1 and lengths[0] > 1:
            return Feature(column.name, "dense", tower, dim=int(lengths[0])), f"vectors of {lengths[0]}"
        return "lists of numbers of different lengths"
    if not (elements.is_int or elements.is_text):
        return f"its type is {column.array.type}"
    kind = "sequence" if _HISTORY_WORDS & set(column.words) else "bag"
    slots = int(min(_MAX_SLOTS, max(1, np.quantile(lengths, 0.95))))
    dtype: DType = "int" if elements.is_int else "string"
    note = f"{elements.distinct:,} values in lists of up to {lengths.max()}"
    ad = columns.get(roles.ad_id)
    if ad is not None and ad.is_text == elements.is_text and _overlap(elements, ad) > 0.5:
        return Feature(column.name, kind, tower, dtype, DIM, max_length=slots, shares=ad.name), f"ads; {note}"
    if elements.distinct <= _MAX_VOCABULARY:
        vocabulary = tuple(elements.values())
        note = f"lists of up to {lengths.max()}"
        return Feature(column.name, kind, tower, dtype, SMALL_DIM, vocabulary=vocabulary, max_length=slots), note
    size = table_size(elements.distinct)
    return Feature(column.name, kind, tower, dtype, DIM, hash_size=size, max_length=slots), note


def _overlap(elements: Column, ad: Column) -> float:
    """Share of the distinct elements that are ads, of at least 25."""
    distinct = elements.array.unique().drop_null()
    kind = pa.string() if ad.is_text else pa.int64()
    if len(distinct) <= _MAX_VOCABULARY or not (ad.is_text or ad.is_int):
        return 0.0
    return float(pc.mean(pc.is_in(distinct.cast(kind), ad.array.unique().cast(kind))).as_py())
