"""Damaged and hostile input: every byte of a small bundle, index and log changed; random bytes on the wire.

Each is refused by its own error or harmless. The long versions (`-m slow`) try every byte; those here try a sample.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.index.ad_index import AdIndex, AdIndexError, IndexManifest, index_table
from serving.parity.request_log import RequestLogError, read_log
from serving.scorer import Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.bundles import write_small
from tests.support.service_calls import running, some_queries
from tt_jax.bundle.reader import Bundle, BundleError, Manifest
from tt_jax.io.publish import describe_files, read_published, write_manifest

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as a bundle can be."""
    out = tmp_path_factory.mktemp("fuzzed") / "bundle"
    write_small(out)
    return out


@pytest.fixture(scope="module")
def index(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzzed") / "index"
    index_table(Bundle.load(tiny_bundle), tiny.ads_table(np.random.default_rng(2), 3)).save(out)
    return out


def changes(content: bytes, rng: np.random.Generator, most: int) -> Iterator[bytes]:
    """The content with one byte changed: each byte once, or a sample of them; half of the changes are of one bit."""
    places = np.arange(len(content)) if len(content) <= most else rng.choice(len(content), most, replace=False)
    for at in places.tolist():
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
        yield bytes(changed)


def test_no_changed_byte_of_a_published_directory_passes(bundle: Path, index: Path) -> None:
    _no_changed_byte_passes(bundle, Manifest, BundleError, 60)
    _no_changed_byte_passes(index, IndexManifest, AdIndexError, 60)


@pytest.mark.slow
def test_no_changed_byte_of_a_published_directory_passes_at_all(bundle: Path, index: Path) -> None:
    _no_changed_byte_passes(bundle, Manifest, BundleError, 10**9)
    _no_changed_byte_passes(index, IndexManifest, AdIndexError, 10**9)


def _no_changed_byte_passes(root: Path, manifest: type[Any], error: type[ValueError], most: int) -> None:
    """`read_published` is the first thing that `load` does, and what it refuses nothing else sees."""
    rng, tried = np.random.default_rng(0), 0
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        try:
            for changed in changes(content, rng, most if path.name != "manifest.json" else 10 * most):
                path.write_bytes(changed)
                with pytest.raises(error):
                    read_published(root, manifest, error)
                tried += 1
        finally:
            path.write_bytes(content)
    read_published(root, manifest, error)
    assert tried > 800


def test_what_stands_behind_the_hashes_refuses_or_is_harmless(bundle: Path, index: Path, tmp_path: Path) -> None:
    _behind_the_hashes(bundle, index, tmp_path, 40)


@pytest.mark.slow
def test_what_stands_behind_the_hashes_refuses_or_is_harmless_at_every_byte(
    bundle: Path, index: Path, tmp_path: Path
) -> None:
    _behind_the_hashes(bundle, index, tmp_path, 10**9)


def _behind_the_hashes(bundle: Path, index: Path, tmp_path: Path, most: int) -> None:
    """A hand that changes a byte and writes the hashes anew: nothing but our own errors, and never another score."""
    sound = Bundle.load(bundle)
    sound.replay_golden()

    def load_bundle(root: Path) -> None:
        found = Bundle.load(root)
        assert found.fingerprint == sound.fingerprint
        for name in ("params", "tables"):
            for key, array in getattr(sound, name).items():
                np.testing.assert_array_equal(getattr(found, name)[key], array)

    copy = shutil.copytree(bundle, tmp_path / "bundle")
    files = ("config.json", "golden.json", "metrics.json", "schema.json", "weights.npz")
    refused = sum(_behind(copy, name, Manifest, BundleError, load_bundle, most) for name in files)
    assert refused > min(most, 100)
    copy = shutil.copytree(index, tmp_path / "index")
    files = ("bids.npy", "ids.npy", "valid.npy", "vectors.npy")
    refused = sum(_behind(copy, name, IndexManifest, AdIndexError, AdIndex.load, most) for name in files)
    assert refused > min(most, 100)


def _behind(
    root: Path, name: str, manifest: type[Any], error: type[ValueError], load: Callable[[Path], Any], most: int
) -> int:
    path, refused = root / name, 0
    content, old = path.read_bytes(), json.loads((root / "manifest.json").read_text())
    rng = np.random.default_rng(len(content))
    for changed in changes(content, rng, most):
        path.write_bytes(changed)
        entries = {f.name: old[f.name] for f in fields(manifest)}
        entries = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
        write_manifest(root, manifest(**{**entries, "files": describe_files(root)}))
        try:
            load(root)
        except error:
            refused += 1
    path.write_bytes(content)
    write_manifest(root, manifest(**{**entries, "files": describe_files(root)}))
    load(root)
    return refused


def test_a_damaged_log_is_refused_by_its_line(tmp_path: Path) -> None:
    path, rng = tmp_path / "log.jsonl", np.random.default_rng(1)
    line = (
        b'{"time":"2026-01-01T00:00:00.000+00:00","bundle":"b","index":"i","k":1,"query":{"age":3.5,"user":"\xc3\xa9"},'
        b'"candidates":[1,"a"],"ads":[{"id":7,"score":0.5,"probabilities":{"click":0.25}}]}\n'
    )
    refused = 0
    for changed in changes(line, rng, 10**9):
        path.write_bytes(line + changed + line)
        try:
            assert len(list(read_log(path))) == 3
        except RequestLogError:
            refused += 1
    assert refused > 100
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RequestLogError, match="line 1: not a logged query"):
        list(read_log(path))


# ---- on the wire -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tiny_bundle: Path, tiny_index: Path) -> Iterator[tuple[str, int]]:
    with running(
        create_app(Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False), ServiceConfig(max_body=20_000))
    ) as found:
        yield found


def test_random_bytes_on_a_connection(address: tuple[str, int]) -> None:
    _random_bytes(address, 150)


@pytest.mark.slow
def test_random_bytes_on_a_connection_for_long(address: tuple[str, int]) -> None:
    _random_bytes(address, 2000)


def _random_bytes(address: tuple[str, int], tries: int) -> None:
    """Half of them a real request with some bytes changed: never a 5xx or a traceback, and the service lives on."""
    rng, statuses = np.random.default_rng(2), set()
    for i in range(tries):
        body = json.dumps({"query": some_queries(1, seed=i)[0], "k": 3}).encode()
        request = (
            b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        sent = bytearray(rng.bytes(int(rng.integers(1, 400))) if i % 4 == 0 else request)
        for _ in range(int(rng.integers(0, 4)) if i % 4 else 0):
            at = int(rng.integers(len(sent)))
            sent[at : at + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
        answer = _answer(address, bytes(sent))
        assert b"Traceback" not in answer
        for part in answer.split(b"HTTP/1.1 ")[1:]:
            statuses.add(int(part[:3]))
    assert {200, 400} <= statuses
    assert max(statuses) < 500, statuses


def _answer(address: tuple[str, int], sent: bytes) -> bytes:
    """What comes back until the service closes the connection, or waits for more."""
    answer = b""
    with socket.create_connection(address, timeout=20) as connection, suppress(ConnectionError, TimeoutError):
        connection.sendall(sent)
        connection.settimeout(0.1)
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize("mode", GenerationMode)
def test_requests_made_of_the_openapi_document(address: tuple[str, int], mode: GenerationMode) -> None:
    _made_of_the_document(address, mode, 40)


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
def test_requests_made_of_the_openapi_document_for_long(address: tuple[str, int], mode: GenerationMode) -> None:
    _made_of_the_document(address, mode, 1000)


def _made_of_the_document(address: tuple[str, int], mode: GenerationMode, examples: int) -> None:
    """Requests that fit the document, or that do not: answers are always of a status, type and form that it has."""
    api = schemathesis.openapi.from_url("http://{}:{}/schema/openapi.json".format(*address))
    seen = set()
    for result in api.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # a GET without parameters: no request can be wrong

        @settings(
            max_examples=examples if operation.body else 1,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=HealthCheck,
        )
        @given(operation.as_strategy(generation_mode=mode))
        def asked(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        asked()
        seen.add(operation.label)
    assert "POST /v1/rank" in seen
