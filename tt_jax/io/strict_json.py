"""JSON under a strict schema: a frozen dataclass is the schema, and its types say what is accepted.

Manifests, schemas, configurations and records of runs are read by this. Nothing unknown passes, and nothing is
converted but whole numbers to floats and lists to tuples, which JSON cannot tell apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest valid name, or the sorted list of valid names if none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(names) or 'none'}"


def parse_json(text: str | bytes, where: str, error: type[ValueError]) -> Any:
    """The data of a JSON text. Raises `error`, its message beginning with `where`, if it is not valid."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise error(f"{where}: not valid JSON: {e}") from None


def dataclass_from_dict(cls: type[T], data: Any, where: str, error: type[ValueError], complete: bool = False) -> T:
    """Builds a dataclass from parsed JSON, strictly: keys and types must be those of the fields, at every depth.

    A field is a str, int, float, bool or Literal of strings, or a union of such and None; a tuple of any number of one
    type; a dict by name; a dataclass; or Any.

    Args:
      where: what the data is; messages begin with it and the path of the key, `where.key[index]`.
      error: raised, naming that path, the value and what was expected.
      complete: whether a field that has a default must be there all the same.
    """
    return _Reader(error, complete).read(cls, data, where)


ABSENT = "absent"  # in the metadata of a field: what it is of data that was stored before there was the field


@dataclass(frozen=True)
class _Reader:
    error: type[ValueError]
    complete: bool

    def read(self, cls: Any, data: Any, where: str) -> Any:
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in self._group(data, where):
            if key not in fields:
                raise self.error(f"{where}: unknown key {key!r}{nearest(str(key), fields)}")
        for name, field in fields.items():
            required = field.default is field.default_factory is dataclasses.MISSING
            if name not in data and (required or (self.complete and ABSENT not in field.metadata)):
                raise self.error(f"{where}: missing key {name!r}")
        hints = typing.get_type_hints(cls)
        values = {name: self._value(hints[name], data[name], f"{where}.{name}") for name in fields if name in data}
        absent = {name: field.metadata[ABSENT] for name, field in fields.items() if ABSENT in field.metadata}
        return cls(**(absent | values))

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint):
            return self.read(hint, value, where)
        if origin is dict:
            return {k: self._value(arguments[1], v, f"{where}.{k}") for k, v in self._group(value, where).items()}
        if origin is tuple:
            if not isinstance(value, list | tuple):
                raise self.error(f"{where}: expected a list of {_name(arguments[0])}, got {reprlib.repr(value)}")
            return tuple(self._value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if origin is Literal:
            if value not in arguments:
                raise self.error(f"{where}: {reprlib.repr(value)} is none of {', '.join(arguments)}")
            return value
        accepted = arguments if origin is types.UnionType else (hint,)
        if type(value) in accepted:  # and not isinstance: a bool is no int
            return value
        if type(value) is int and float in accepted:
            return float(value)
        raise self.error(f"{where}: expected {_name(hint)}, got {reprlib.repr(value)}")

    def _group(self, data: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(data, Mapping):
            raise self.error(f"{where}: expected a group of keys, got {reprlib.repr(data)}")
        return data


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
