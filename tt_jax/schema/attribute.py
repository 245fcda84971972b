"""What decides whether an ad may serve, and numbers of its worth: attributes of ads, and values of requests.

They are no features: the model never sees them, unless a column is declared as a feature too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args

from tt_jax.schema.feature import DType

AttributeKind = Literal["set", "number", "interval", "flag"]
Match = Literal["targeting", "property"]
Fail = Callable[[str], NoReturn]
MAX_SET = 512  # values of a set that are stored as bits


@dataclass(frozen=True)
class AdAttribute:
    """One attribute of every ad.

    Attributes:
      name: column of the ads, and key of a request.
      kind: `set` some values; `number` a float32; `interval` a pair of Unix seconds, from the start until before the
        end, null = open, which holds the request's `now`; `flag` true or false.
      match: of a set. `targeting`: the ad says which values of a request's `context` it accepts, and an empty set
        accepts all. `property`: the values are the ad's own, and the request's `where` says which it accepts.
      dtype: of the values of a set, `string` or `int`.
      max_values: of a set, the most different values of all ads. Up to `MAX_SET` they are stored as bits. A larger set
        (advertisers) must be a property, and an ad has at most one of its values.
      default: of a number that an ad does not have; None = every ad has one.
    """

    name: str
    kind: AttributeKind
    match: Match = "property"
    dtype: DType = "string"
    max_values: int = 64
    default: float | None = None

    @property
    def is_bits(self) -> bool:
        """Whether it is a set of few values, each a bit of every ad."""
        return self.kind == "set" and self.max_values <= MAX_SET

    @property
    def is_id(self) -> bool:
        """Whether it is a set of many values, of which an ad has at most one."""
        return self.kind == "set" and self.max_values > MAX_SET


@dataclass(frozen=True)
class RequestValue:
    """A number of a request's `context` that the utility may use.

    Attributes:
      name: its key.
      default: of a request without it.
    """

    name: str
    default: float = 0.0


def check_attributes(
    attributes: Iterable[AdAttribute], values: Iterable[RequestValue], taken: Iterable[str], fail: Fail
) -> None:
    """Calls `fail` with the first contradiction. `taken`: names that mean something else."""
    attributes, values = tuple(attributes), tuple(values)
    names = [*taken, *(a.name for a in attributes), *(v.name for v in values)]
    for what, part in (*(("attribute", a) for a in attributes), *(("request value", v) for v in values)):
        if not part.name.isidentifier():
            fail(f"{what} {part.name!r}: expected a name of letters, digits and _")
        if names.count(part.name) > 1:
            fail(f"{what} {part.name!r}: another column, task, attribute or request value has this name")
        if part.default is not None and not (math.isfinite(part.default) and abs(part.default) < 2.0**127):
            fail(f"{what} {part.name!r}: default {part.default} is no finite float32")
    for a in attributes:
        for value, valid, what in (
            (a.kind, get_args(AttributeKind), "kind"),
            (a.match, get_args(Match), "match"),
            (a.dtype, get_args(DType), "dtype"),
        ):
            if value not in valid:
                fail(f"attribute {a.name!r}: {what} {value!r} is none of {', '.join(valid)}")
        if a.default is not None and a.kind != "number":
            fail(f"attribute {a.name!r}: default is for numbers, not {a.kind!r}")
        if a.match == "targeting" and not a.is_bits:
            fail(f"attribute {a.name!r}: targeting is for sets of at most {MAX_SET} values")
        if a.kind == "set" and a.max_values < 1:
            fail(f"attribute {a.name!r}: max_values {a.max_values} is not >= 1")
