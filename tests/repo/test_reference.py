"""The generated pages of docs/reference say what the code says today, of every field, verb and path."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields

import pytest

from docs.generate_reference import COMMAND, PACKAGES, REFERENCE, described, pages
from tt_jax.cli.main import VERBS
from tt_jax.config import Config
from tt_jax.schema import Feature


@pytest.mark.parametrize("name", ["schema.md", "config.md", "cli.md", "http_api.md", "python_api.md"])
def test_the_page_is_of_today(name: str) -> None:
    assert (REFERENCE / name).read_text() == pages()[name], f"docs/reference/{name} is stale: {COMMAND}"


def test_every_field_is_told_with_type_default_and_meaning() -> None:
    schema, config = pages()["schema.md"], pages()["config.md"]
    for f in fields(Feature):
        assert f"| `{f.name}` |" in schema
    assert (
        "| `transform` | `none` or `log1p` | `'none'` | applied to a number before normalisation, "
        "`(transform(x) - mean) / std`, then clipped to +-`clip`. |"
    ) in schema
    assert "| `features` | tuple of [Feature](#feature) | required | in the order of the encoded matrices" in schema
    assert "| `default` | str, int, float or None | `None` | raw value taken for a missing one;" in schema
    for part in fields(Config):
        for f in fields(part.default_factory) if callable(part.default_factory) else ():  # type: ignore[arg-type]
            assert f"| `config.{part.name}.{f.name}` |" in config
    assert "| `config.train.task_weights` | tuple of str | `()` | `TASK=WEIGHT`, in place of the weights" in config
    assert "| `config.model` | ModelConfig | below | The model. Both towers have the same shape. |" in config


def test_a_field_without_a_line_and_a_line_without_a_field_are_errors() -> None:
    @dataclass
    class Mute:
        """Says little.

        Attributes:
          said, also: two fields,
            in two lines.
        """

        said: int
        also: int
        mute: int

    with pytest.raises(ValueError, match=r"^Mute\.mute: no line in the docstring's Attributes says what it is$"):
        described(Mute)
    Mute.__doc__ = (Mute.__doc__ or "").replace("said, also", "said, also, mute, gone")
    with pytest.raises(ValueError, match=r"^Mute: the docstring describes 'gone', which is no field$"):
        described(Mute)
    Mute.__doc__ = (Mute.__doc__ or "").replace(", gone", "")
    assert described(Mute) == ("Says little.", dict.fromkeys(("said", "also", "mute"), "two fields, in two lines."))


def test_every_verb_has_its_flags_and_every_path_its_statuses() -> None:
    cli, http = pages()["cli.md"], pages()["http_api.md"]
    for verb in VERBS:
        section = cli.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]
        assert f"usage: tt-jax {verb} " in section
        assert "\nexample:\n" in section
    assert "\n  --token-file TOKEN_FILE\n" in cli
    rank = http.partition("\n### POST /v1/rank\n")[2].partition("\n### ")[0]
    assert "| `k` | integer | default `10`. ads per query, at least 1; /v1/model tells the most |" in rank
    assert "| 504 | [ErrorAnswer](#erroranswer): The deadline of the request passed. |" in rank
    assert "\n### GET /health/ready\n" in http
    assert "| `features` | array of [FeatureInfo](#featureinfo) |  |" in http


def test_the_python_api_has_every_public_name_with_signature_and_docstring() -> None:
    page = pages()["python_api.md"]
    for package in PACKAGES:
        section = page.partition(f"\n## {package}\n")[2].partition("\n## ")[0]
        names = importlib.import_module(package).__all__
        assert [line.removeprefix("### ") for line in section.splitlines() if line.startswith("### ")] == names
    assert "AdIndex.load(path: str | os.PathLike[str]) -> AdIndex\n" in page
    assert "\n- `bids`: float32 `[N]`, in the currency of the auction.\n" in page
    assert "\n    *,\n    max_k: int = 1000,\n" in page
