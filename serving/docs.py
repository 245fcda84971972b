"""OpenAPI documents of the service: `/schema/openapi.json`, and a page of it at `/schema` that needs no network.

Litestar's own pages load their scripts from public hosts, which a production network usually cannot reach.
"""

from __future__ import annotations

import html
import importlib.metadata
import json
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, SecurityScheme

from serving.messages import RankRequest

_STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto}pre{background:#f4f4f4;padding:1em;overflow:auto}"


@dataclass
class RankOperation(Operation):
    """Adds the body, which the handler decodes itself, to the document."""

    def __post_init__(self) -> None:
        schema: Any = msgspec.json.schema(RankRequest)["$defs"]["RankRequest"]  # plain JSON schema: rendered as it is
        self.request_body = RequestBody(content={"application/json": OpenAPIMediaType(schema=schema)}, required=True)


class LocalPage(OpenAPIRenderPlugin):
    """The document as plain HTML: one section per operation, with the JSON schemas of its body and its answers."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        title = html.escape(openapi_schema["info"]["title"])
        sections = [
            _section(f"{method.upper()} {path}", operation)
            for path, operations in sorted(openapi_schema["paths"].items())
            for method, operation in operations.items()
        ]
        parts = _pre("Components", openapi_schema.get("components", {}))
        page = f"<h1>{title}</h1><p><a href=/schema/openapi.json>openapi.json</a></p>{''.join(sections)}{parts}"
        return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>{page}".encode()


def openapi_config(tokens: bool) -> OpenAPIConfig:
    """Title, version and the two pages under `/schema`. `tokens`: whether requests must bring one."""
    scheme = SecurityScheme(type="http", scheme="bearer")
    return OpenAPIConfig(
        title="tt-jax: ads ranking",
        version=importlib.metadata.version("tt-jax"),
        path="/schema",
        use_handler_docstrings=True,
        components=Components(security_schemes={"token": scheme} if tokens else None),
        security=[{"token": []}] if tokens else None,
        render_plugins=[JsonRenderPlugin(), LocalPage(path="/")],
    )


def _section(name: str, operation: dict[str, Any]) -> str:
    text = html.escape(operation.get("description", ""))
    body = _pre("Body", operation["requestBody"]) if "requestBody" in operation else ""
    return f"<h2>{html.escape(name)}</h2><p>{text}</p>{body}{_pre('Answers', operation.get('responses', {}))}"


def _pre(title: str, data: dict[str, Any]) -> str:
    return f"<h3>{title}</h3><pre>{html.escape(json.dumps(data, indent=1))}</pre>"
