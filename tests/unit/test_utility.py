"""The ranking utility: values against NumPy, and what the whitelist turns away."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tt_jax.utility import MAX_DEPTH, MAX_LENGTH, Utility

TASKS = ("click", "long_view", "conversion")


@pytest.mark.parametrize(
    ("expression", "reference"),
    [
        ("bid * click", lambda c, v, o, b: b * c),
        ("0.7 * click + 0.3 * long_view", lambda c, v, o, b: 0.7 * c + 0.3 * v),
        ("bid * click * conversion ** 0.5", lambda c, v, o, b: b * c * np.sqrt(o)),
        (" -click - -2 / (1 + bid)", lambda c, v, o, b: -c + 2 / (1 + b)),
        ("-click ** 2", lambda c, v, o, b: -(c**2)),
        ("2 ** -click ** 2", lambda c, v, o, b: 2 ** -(c**2)),
        ("log(click) + exp(-long_view) - sqrt(bid)", lambda c, v, o, b: np.log(c) + np.exp(-v) - np.sqrt(b)),
        ("max(click, min(long_view, 0.5))", lambda c, v, o, b: np.maximum(c, np.minimum(v, 0.5))),
        ("maximum(click, minimum(long_view, 0.5))", lambda c, v, o, b: np.maximum(c, np.minimum(v, 0.5))),
        ("where(click >= long_view, bid, -conversion)", lambda c, v, o, b: np.where(c >= v, b, -o)),
        ("bid * (click != long_view) - (click < 0.5)", lambda c, v, o, b: b * (c != v) - (c < 0.5)),
    ],
)
def test_value_matches_numpy(expression: str, reference) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(0.05, 0.95, (4, 3, 7))
    p = {t: jnp.asarray(values[i], jnp.float32) for i, t in enumerate(TASKS)}
    utility = Utility.parse(expression, TASKS)
    got = jax.jit(utility.__call__)(p, jnp.asarray(values[3], jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, reference(*values), rtol=1e-5, atol=1e-6)


def test_numbers_of_ads_and_values_of_requests() -> None:
    utility = Utility.parse("bid * pacing * click - floor", TASKS, ("pacing", "spent", "floor"))
    assert (utility.names, utility.other_names) == (("click",), ("pacing", "floor"))
    given = {"pacing": jnp.array([0.5, 1.0]), "floor": jnp.array([[0.1], [0.2], [0.3]])}
    got = utility({"click": jnp.full((3, 2), 0.5)}, jnp.array([1.0, 2.0]), given)
    np.testing.assert_allclose(got, [[0.15, 0.9], [0.05, 0.8], [-0.05, 0.7]], rtol=1e-5)
    with pytest.raises(ValueError, match="unknown name 'pace'; did you mean 'pacing'"):
        Utility.parse("bid * pace", TASKS, ("pacing",))


def test_names_in_task_order_and_bid() -> None:
    utility = Utility.parse("log(conversion) + click * 2", TASKS)
    assert utility.names == ("click", "conversion")
    utility = Utility.parse("bid", TASKS)
    assert utility.names == ()


def test_a_task_may_be_called_like_a_function() -> None:
    utility = Utility.parse("log(log)", ("log",))
    assert utility.names == ("log",)
    np.testing.assert_allclose(utility({"log": jnp.float32(0.5)}, jnp.float32(1)), np.log(0.5), rtol=1e-6)


def test_equal_utilities_are_one_static_argument() -> None:
    assert hash(Utility.parse("bid * click", TASKS)) == hash(Utility.parse("bid * click", TASKS))
    assert Utility.parse("bid * click", TASKS) == Utility.parse("bid * click", TASKS)


@pytest.mark.parametrize(
    ("expression", "culprit"),
    [
        ("bid * clik", "unknown name 'clik'; did you mean 'click'"),
        ("lgo(click)", "unknown function 'lgo'; did you mean 'log'"),
        ("__import__('os')", "unknown function '__import__'"),
        ("click.real", "'click.real' is not allowed"),
        ("click.log(1)", "'click.log(1)' is not allowed"),
        ("click[0]", "'click[0]' is not allowed"),
        ("click if bid else 0", "is not allowed"),
        ("click < bid < 3", "'click < bid < 3' is not allowed"),
        ("click // bid", "'click // bid' is not allowed"),
        ("+click", "'+click' is not allowed"),
        ("not click", "'not click' is not allowed"),
        ("True * click", "'True' is not allowed"),
        ("'a' * click", "is not allowed"),
        ("1j * click", "'1j' is not allowed"),
        ("(lambda: click)()", "is not allowed"),
        ("min(click)", "min takes 2 arguments, got 1"),
        ("log(click, x=1)", "is not allowed"),
        ("max(*click)", "max takes 2 arguments, got 1"),
        ("1e39 * click", "the number 1e39 does not fit float32"),
        ("1e999 * click", "the number 1e999 does not fit float32"),
        (f"{10**400} * click", "does not fit float32"),
        ("click =", "not an expression"),
        ("click\nbid", "not an expression"),
        ("click\0", "not an expression"),
        ("", "not an expression"),
        ("1 + 2", "neither a task nor the bid"),
        ("click + " * 200 + "click", f"at most {MAX_LENGTH}"),
        ("-" * (MAX_LENGTH - 5) + "click", ""),
        ("~" * (MAX_LENGTH - 5) + "click", ""),
        ("-" * (MAX_DEPTH) + "click", f"more than {MAX_DEPTH} nested operations"),
        ("(" * 400 + "click" + ")" * 400, "not an expression"),
    ],
)
def test_anything_else_is_refused(expression: str, culprit: str) -> None:
    with pytest.raises(ValueError, match="allowed are numbers, task names") as e:
        Utility.parse(expression, TASKS)
    assert culprit in str(e.value)
    assert repr(expression)[:100] in str(e.value)


def test_a_task_called_bid_is_refused() -> None:
    with pytest.raises(ValueError, match="a task is called 'bid' too"):
        Utility.parse("bid", ("bid",))
