"""The ranking utility: an arithmetic expression such as `bid * pacing * click - floor`, of task probabilities, the bid,
numbers of ads and values of requests.

It comes from a config or a bundle, so it is parsed against a whitelist and never evaluated as Python.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
from jax import Array

from tt_jax.io.strict_json import nearest

BID = "bid"
MAX_LENGTH = 1000  # characters
MAX_DEPTH = 50  # nested operations, far from Python's own recursion limit

_BINARY: dict[type[ast.operator], Callable[[Array, Array], Array]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Array], int]] = {  # name -> (function, number of arguments)
    "log": (jnp.log, 1),
    "exp": (jnp.exp, 1),
    "sqrt": (jnp.sqrt, 1),
    "min": (jnp.minimum, 2),
    "max": (jnp.maximum, 2),
    "minimum": (jnp.minimum, 2),
    "maximum": (jnp.maximum, 2),
    "where": (lambda a, b, c: jnp.where(a != 0, b, c), 3),
}
_COMPARED: dict[type[ast.cmpop], Callable[[Array, Array], Array]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ALLOWED = (
    f"numbers, task names, {BID}, ad numbers, request values, + - * / **, comparisons, "
    "log(x), exp(x), sqrt(x), min(x, y), max(x, y), where(x, y, z)"
)


@dataclass(frozen=True)
class Utility:
    """A checked expression. Build it with `parse`; equal expressions over equal tasks compare and hash equal.

    Attributes:
      expression: as it was written.
      tasks: names that the expression may use, in the order of the model's outputs.
      others: further names that it may use, of numbers of ads and values of requests.
    """

    expression: str
    tasks: tuple[str, ...]
    others: tuple[str, ...] = ()

    @staticmethod
    def parse(expression: str, tasks: tuple[str, ...], others: tuple[str, ...] = ()) -> Utility:
        """The utility, or a `ValueError` that names the expression, the culprit and what is allowed.

        Allowed are numbers, task names, `bid`, `others`, `+ - * / **`, unary minus, `log(x) exp(x) sqrt(x)`,
        `min(x, y) max(x, y)`, which `minimum` and `maximum` are too, comparisons, which give 1 or 0, and
        `where(x, y, z)`: y where x is not 0, else z.
        """
        utility = Utility(expression, tasks, others)
        if BID in tasks:
            raise utility._error(f"a task is called {BID!r} too")
        _check(utility._body, utility, 1)
        if not utility._used:
            raise utility._error("it uses neither a task nor the bid, so every ad would tie")
        return utility

    @cached_property
    def _body(self) -> ast.expr:
        if len(self.expression) > MAX_LENGTH:
            raise self._error(f"it has {len(self.expression)} characters, at most {MAX_LENGTH} are allowed")
        try:
            return ast.parse(self.expression.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            raise self._error(f"not an expression ({e})") from None

    def _error(self, culprit: str) -> ValueError:
        return ValueError(f"utility {_shorten(self.expression)!r}: {culprit}; allowed are {_ALLOWED}")

    def _source(self, node: ast.expr) -> str:
        return _shorten(ast.get_source_segment(self.expression.strip(), node) or type(node).__name__)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tasks that the expression uses, in the order of `tasks`."""
        used = self._used
        return tuple(t for t in self.tasks if t in used)

    @cached_property
    def _used(self) -> frozenset[str]:
        called = {id(n.func) for n in ast.walk(self._body) if isinstance(n, ast.Call)}
        return frozenset(n.id for n in ast.walk(self._body) if isinstance(n, ast.Name) and id(n) not in called)

    @cached_property
    def other_names(self) -> tuple[str, ...]:
        """Those of `others` that the expression uses, in their order."""
        used = self._used
        return tuple(name for name in self.others if name in used)

    def __call__(
        self, probabilities: Mapping[str, Array], bid: Array, others: Mapping[str, Array] | None = None
    ) -> Array:
        """The utility of every ad, float32.

        Args:
          probabilities: task name -> float32 array; at least the tasks in `names`, of shapes that broadcast with `bid`.
          bid: float32 array, in the currency of the auction.
          others: name -> float32 array, at least those in `other_names`, of shapes that broadcast with `bid`.
        """
        return _evaluate(self._body, {**(others or {}), **probabilities, BID: bid})


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


def _check(node: ast.expr, utility: Utility, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise utility._error(f"more than {MAX_DEPTH} nested operations")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if abs(value) > float(jnp.finfo(jnp.float32).max) or not math.isfinite(value):
                raise utility._error(f"the number {utility._source(node)} does not fit float32")
        case ast.Name(id=name):
            valid = (*utility.tasks, BID, *utility.others)
            if name not in valid:
                raise utility._error(f"unknown name {name!r}{nearest(name, valid)}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, utility, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, utility, depth + 1)
            _check(right, utility, depth + 1)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
            _check(left, utility, depth + 1)
            _check(right, utility, depth + 1)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in _FUNCTIONS:
                raise utility._error(f"unknown function {name!r}{nearest(name, _FUNCTIONS)}")
            if len(args) != _FUNCTIONS[name][1]:
                raise utility._error(f"{name} takes {_FUNCTIONS[name][1]} arguments, got {len(args)}")
            for argument in args:
                _check(argument, utility, depth + 1)
        case _:
            raise utility._error(f"{utility._source(node)!r} is not allowed")


def _evaluate(node: ast.expr, values: Mapping[str, Array]) -> Array:
    match node:
        case ast.Constant(value=int() | float() as value):
            return jnp.float32(value)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            compared = _COMPARED[type(op)](_evaluate(left, values), _evaluate(right, values))
            return jnp.asarray(compared, jnp.float32)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name][0](*(_evaluate(a, values) for a in args))
    raise AssertionError(ast.dump(node))  # `parse` lets nothing else through
