"""Which models a service has, by flags of `tt-jax serve` or by a TOML file of the same."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from serving.error_answer import shorten
from serving.routing.router import Routes
from serving.scorer_updates import Sources

FLAG = "NAME=BUNDLE,INDEX, or NAME=WEIGHT:BUNDLE,INDEX,WEIGHT:BUNDLE,INDEX"
SHADOW_FLAG = "NAME=SHARE:BUNDLE,INDEX"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WEIGHED = re.compile(r"([0-9.]+):(.+)")
S = TypeVar("S")


class PlanError(ValueError):
    """A table of models that cannot be: which flag or key, its value, what was expected."""


class _Pair(Struct, forbid_unknown_fields=True):
    bundle: str
    index: str
    deltas: str | None = None
    journal: str | None = None
    weight: Annotated[float, Meta(ge=0)] = 1.0


class _Shadow(Struct, forbid_unknown_fields=True):
    bundle: str
    index: str
    share: Annotated[float, Meta(gt=0, le=1)]


class _Model(Struct, forbid_unknown_fields=True):
    pairs: Annotated[list[_Pair], Meta(min_length=1)]
    shadow: _Shadow | None = None


class _File(Struct, forbid_unknown_fields=True):
    models: Annotated[dict[str, dict[str, Any]], Meta(min_length=1)]
    route: str = ""
    split_by: str = ""


@dataclass(frozen=True)
class Plan:
    """The directories of each pair by its name, and how requests find it."""

    pairs: dict[str, Sources]
    routes: Routes

    @staticmethod
    def alone(sources: Sources) -> Plan:
        """Of one pair. Its name is "" until it is loaded; then `named` gives it that of its schema."""
        return Plan({"": sources}, Routes({"": {"": 1.0}}))

    def named(self, name: str) -> Plan:
        """With that name for the pair that has none."""
        if "" not in self.pairs:
            return self
        return Plan({name: self.pairs[""]}, Routes({name: {name: 1.0}}, by=self.routes.by))

    @staticmethod
    def of_flags(
        models: Sequence[str], shadows: Sequence[str], route: str = "", split_by: str = "", journal: Path | None = None
    ) -> Plan:
        """Of `--model`, `--shadow`, `--route`, `--split-by` and `--journal`, in which each pair has a directory of its
        name. Raises `PlanError`."""
        found: dict[str, Any] = {}
        for text in models:
            name, pairs = _named(f"--model {text}", text, FLAG)
            if name in found:
                raise PlanError(f"--model {text}: expected another name, {name!r} is there twice")
            found[name] = {"pairs": list(_pairs(f"--model {text}", pairs, "weight"))}
        for text in shadows:
            name, pairs = _named(f"--shadow {text}", text, SHADOW_FLAG)
            shadow = list(_pairs(f"--shadow {text}", pairs, "share"))
            if name not in found or "shadow" in found[name] or len(shadow) != 1:
                raise PlanError(f"--shadow {text}: expected one pair for each of the models {', '.join(found)}")
            found[name]["shadow"] = shadow[0]
        return _plan("", {"models": found, "route": route, "split_by": split_by}, journal)

    @staticmethod
    def read(path: Path) -> Plan:
        """Of a file, whose paths are taken from the current directory. Raises `PlanError`, OSError."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as e:
            raise PlanError(f"{path}: not valid TOML: {e}") from None
        return _plan(f"{path}: ", content, None)


def _plan(where: str, content: Mapping[str, Any], journal: Path | None) -> Plan:
    file = _convert(where, "", content, _File)
    if file.route not in ("", "scenario"):
        raise PlanError(f"{where}route: expected 'scenario', got {file.route!r}")
    sources, models, shadows = dict[str, Sources](), dict[str, dict[str, float]](), dict[str, tuple[str, float]]()
    for name, entry in file.models.items():
        if not _NAME.fullmatch(name):
            raise PlanError(f"{where}models: expected a name of letters, digits, - and _, got {shorten(repr(name))}")
        model = _convert(where, f"models.{name}", _with_pairs(entry), _Model)
        names = [f"{name}.{i}" for i in range(1, len(model.pairs) + 1)] if len(model.pairs) > 1 else [name]
        models[name] = {pair: some.weight for pair, some in zip(names, model.pairs, strict=True)}
        if not sum(models[name].values()):
            raise PlanError(f"{where}models.{name}: expected a weight above 0, got {list(models[name].values())}")
        for pair, some in zip(names, model.pairs, strict=True):
            own = Path(some.journal) if some.journal else journal and journal / pair
            deltas = Path(some.deltas) if some.deltas else None
            sources[pair] = Sources(Path(some.bundle), Path(some.index), deltas, own)
        if model.shadow:
            sources[f"{name}.shadow"] = Sources(Path(model.shadow.bundle), Path(model.shadow.index))
            shadows[name] = f"{name}.shadow", model.shadow.share
    journals = [some.journal for some in sources.values() if some.journal]
    for path in journals:
        if journals.count(path) > 1:
            raise PlanError(f"{where}journal: expected a directory for each pair, got {str(path)!r} twice")
    return Plan(sources, Routes(models, shadows, file.route, file.split_by))


def _with_pairs(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's entry, whose only pair may be written in place of `pairs`."""
    if "pairs" in entry:
        return entry
    shadow = {"shadow": entry["shadow"]} if "shadow" in entry else {}
    return {"pairs": [{key: value for key, value in entry.items() if key != "shadow"}], **shadow}


def _named(where: str, text: str, expected: str) -> tuple[str, str]:
    name, sign, rest = text.partition("=")
    if not (sign and rest):
        raise PlanError(f"{where}: expected {expected}")
    return name, rest


def _pairs(where: str, text: str, number: str) -> Iterator[dict[str, Any]]:
    parts = text.split(",")
    if len(parts) % 2 or not all(parts):
        raise PlanError(f"{where}: expected pairs BUNDLE,INDEX, got {len(parts)} directories in {text!r}")
    for bundle, index in zip(parts[::2], parts[1::2], strict=True):
        pair: dict[str, Any] = {"bundle": bundle, "index": index}
        if weighed := _WEIGHED.fullmatch(bundle):
            try:
                pair |= {"bundle": weighed[2], number: float(weighed[1])}
            except ValueError:
                raise PlanError(f"{where}: expected a number before the colon, got {weighed[1]!r}") from None
        elif len(parts) > 2:
            raise PlanError(f"{where}: expected WEIGHT:BUNDLE,INDEX for each of several pairs, got {bundle!r}")
        yield pair


def _convert(where: str, key: str, value: Any, kind: type[S]) -> S:
    """`key`: what the value is of, "" = the whole."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        what, _, path = str(e).partition(" - at ")
        got, path = value, path.strip("`").removeprefix("$")
        for name, i in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            got = got[name] if name else got[int(i)]
        what = what.partition(", got")[0]
        place = (key + path).lstrip(".") or "the table"
        raise PlanError(f"{where}{place}: {what[:1].lower()}{what[1:]}, got {shorten(repr(got))}") from None
