"""Commands of the pages on deployment."""

from __future__ import annotations

import configparser
import json
import shlex
from typing import Any

import yaml

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"


def commands() -> dict[str, list[str]]:
    """By the file that runs it."""
    (command,) = [json.loads(rest) for name, rest in dockerfile() if name == "CMD"]
    return {
        "unit": shlex.split(unit()["Service"]["ExecStart"]),
        "docker": command,
        "kubernetes": pod()["containers"][0]["args"],
    }


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read(DEPLOY / "tt-jax.service")
    return parser


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions and what follows them."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def pod() -> dict[str, Any]:
    return manifests()["Deployment"]["spec"]["template"]["spec"]


def manifests() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
