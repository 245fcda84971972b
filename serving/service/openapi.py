"""OpenAPI documents of the service: `/schema/openapi.json`, and a page of it at `/schema` that needs no network.

By default Litestar's pages load their scripts from public hosts, which a production network usually cannot reach.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, SecurityScheme
from litestar.params import FromPath
from openapi_ui_bundles import swagger_ui

from serving.service.messages import RankRequest

_ROOT, _ASSETS = "/schema", "/assets"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
# Long paths and tables of parameters would make a phone scroll the page sideways.
_STYLE = """<style>
body { margin: 0 } .swagger-ui { overflow-wrap: anywhere } .swagger-ui .wrapper { padding: 0 12px }
.swagger-ui .table-container, .swagger-ui .responses-inner { overflow-x: auto }
</style>"""


@dataclass
class RankOperation(Operation):
    """Adds the body, which the handler decodes itself, to the document."""

    def __post_init__(self) -> None:
        schema: Any = msgspec.json.schema(RankRequest)["$defs"]["RankRequest"]  # plain JSON schema: rendered as it is
        content = OpenAPIMediaType(schema=schema, example={"query": {}, "k": 10})
        self.request_body = RequestBody(content={"application/json": content}, required=True)


class LocalSwagger(SwaggerRenderPlugin):
    """Swagger UI, whose script and style are served beside it, from the package `openapi-ui-bundles`."""

    def __init__(self, path: str) -> None:
        """`path`: of the page, below that of the documents."""
        script, preset, sheet = (f"{_ROOT}{_ASSETS}/{name}" for name in _FILES)
        super().__init__(
            path=path,
            js_url=script,
            standalone_preset_js_url=preset,
            css_url=sheet,
            favicon='<link rel="icon" href="data:,">',
            style=_STYLE,
        )

    def receive_router(self, router: Router) -> None:
        """Adds the files; there is no OAuth, and so no page for its redirects."""
        router.register(asset)


@get(f"{_ASSETS}/{{name:str}}", include_in_schema=False, sync_to_thread=False)
def asset(name: FromPath[str]) -> Response[bytes]:
    """A file that the page needs."""
    if name not in _FILES:
        raise NotFoundException
    return Response(_read(name), media_type=_FILES[name], headers={"cache-control": "max-age=3600"})


@cache
def _read(name: str) -> bytes:
    return (swagger_ui.static_path / name).read_bytes()


def openapi_config(tokens: bool) -> OpenAPIConfig:
    """Title, version and the two pages under `/schema`. `tokens`: whether requests must bring one."""
    scheme = SecurityScheme(type="http", scheme="bearer")
    return OpenAPIConfig(
        title="tt-jax: ads ranking",
        version=importlib.metadata.version("tt-jax"),
        path=_ROOT,
        use_handler_docstrings=True,
        components=Components(security_schemes={"token": scheme} if tokens else None),
        security=[{"token": []}] if tokens else None,
        render_plugins=[JsonRenderPlugin(), LocalSwagger("/")],
    )
