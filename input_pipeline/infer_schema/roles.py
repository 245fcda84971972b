"""Which columns are ids, time, scenario and outcomes: by their names first, then by what is in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from input_pipeline.infer_schema.holdout import split_of, time_of
from input_pipeline.infer_schema.name_words import AD_WORDS, REQUEST_WORDS, SCENARIO_WORDS, USER_WORDS, id_rank
from input_pipeline.infer_schema.sampled_columns import Column
from input_pipeline.infer_schema.tasks import Outcome, is_opposite, is_unread, outcomes_of
from input_pipeline.logs.to_schema import EVERY_ROW, OTHER, ROW_NUMBER

_MAX_SCENARIOS = 16
_MAX_NAME = 60  # bytes of a scenario's name, which is also that of a folder
_RARE = 0.005  # of the rows: a smaller scenario is `other`


@dataclass(frozen=True)
class GuessedRoles:
    """What the columns are for; "" where there is none.

    `split` is the source text of the split, `split_reason` why it is that one, `eval_split` what is held out,
    `train_share` the share of the rows that is not.
    """

    user_id: str
    ad_id: str
    request_id: str
    time: str
    split: str
    split_reason: str
    eval_split: str
    train_share: float
    scenario: str
    scenarios: tuple[str, ...]
    other_scenarios: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    left_out: dict[str, str] = field(default_factory=dict)  # column -> why it is no feature


def roles_of(columns: Mapping[str, Column], files: Mapping[str, int], source: str) -> GuessedRoles:
    """The roles; `files`: of the log, and the rows of each. Raises `ReadError` if nothing can be learned."""
    user_id, ad_id = _id_column(columns, USER_WORDS), _id_column(columns, AD_WORDS)
    request_id = _id_column(columns, REQUEST_WORDS, id_only=True)
    left_out: dict[str, str] = {}
    if request_id:
        column = columns[request_id]
        left_out[request_id] = "the request id"
        if column.distinct > 0.99 * len(column.codes):
            left_out[request_id], request_id = "an id of its own for every row", ""
    groups = [columns[c].codes for c in (user_id, ad_id) if c]
    time, days = time_of({n: c for n, c in columns.items() if n not in (user_id, ad_id, request_id)}, groups)
    left_out |= days
    taken = {*left_out, user_id, ad_id}
    outcomes = outcomes_of({n: c for n, c in columns.items() if n not in taken}, groups, source)
    for o in outcomes:
        left_out.setdefault(o.column, "an outcome, see TASKS" if o.chosen else "perhaps an outcome, see TASKS")
    for c in columns.values():
        if is_opposite(c):
            left_out.setdefault(c.name, "says that an outcome did not come")
        elif is_unread(c):
            left_out.setdefault(
                c.name, "named as an outcome, with values that are neither two, nor counts, nor ratings"
            )
    scenarios = _scenario_columns(columns, {*left_out, user_id, ad_id})
    scenario = scenarios[0] if scenarios else EVERY_ROW
    split, reason, eval_split, train_share = split_of(columns, time, files)
    return GuessedRoles(
        user_id=user_id, ad_id=ad_id or ROW_NUMBER, request_id=request_id, time=time,
        split=split, split_reason=reason, eval_split=eval_split, train_share=train_share,
        scenario=scenario, scenarios=_scenario_values(columns[scenario]) if scenarios else ("all",),
        other_scenarios=tuple(scenarios[1:]), outcomes=outcomes, left_out=left_out,
    )  # fmt: skip


def _id_column(columns: Mapping[str, Column], words: Sequence[str], id_only: bool = False) -> str:
    """The column that is named best as an id of these, of more than a handful of values; "" if there is none."""
    ranks = {c.name: rank for c in columns.values() if (rank := id_rank(c.words, words, id_only)) and _may_be_id(c)}
    return min(ranks, key=ranks.__getitem__, default="")


def _may_be_id(column: Column) -> bool:
    return column.distinct > 5 and (column.is_text or column.is_whole) and not column.is_list


def _scenario_columns(columns: Mapping[str, Column], taken: Collection[str]) -> list[str]:
    names = []
    for word in SCENARIO_WORDS:
        for c in columns.values():
            named = word in c.words and c.name not in taken and not c.is_truth
            if named and (c.is_text or c.is_whole) and not c.is_list:
                few = c.counts is not None and 2 <= c.distinct <= _MAX_SCENARIOS
                few = few and all(len(str(value).encode()) <= _MAX_NAME for value in c.counts or ())
                names += [c.name] if few and c.name not in names else []
    return names


def _scenario_values(column: Column) -> tuple[str, ...]:
    """As text, the most frequent first, rare ones and what is missing together as `other`."""
    counts = {v if isinstance(v, str) else f"{v:.0f}": n for v, n in (column.counts or {}).items()}  # ids are whole
    common = [v for v in counts if counts[v] >= _RARE * sum(counts.values())]
    common.sort(key=lambda v: -counts[v])
    complete = len(common) == len(counts) and not column.missing
    return tuple(common) if complete or OTHER in common else (*common, OTHER)
