"""The admin listener of a real process: what SIGHUP and SIGTERM do to it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.index.ad_index import AdIndex, IndexManifest, index_table
from serving.index.delta import Base, make_delta
from serving.memory import PEAK, available_memory
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.service_calls import error_of, post, some_queries
from tt_jax.bundle.reader import Bundle
from tt_jax.io.publish import read_published, write_manifest

pytestmark = pytest.mark.process

TOKEN, NEXT_TOKEN = "a-token-of-the-tests", "the-token-after-it"
AUTHORIZED, NEXT = ({"authorization": f"Bearer {token}"} for token in (TOKEN, NEXT_TOKEN))
QUERY = some_queries(1)[0]


def endless(index: Path, out: Path) -> Path:
    """An index that takes seconds to be read, since its vectors are gigabytes of nothing, and is wrong in the end."""
    shutil.copytree(index, out)
    size = min(2**36, (available_memory() or 2**34) // (PEAK + 1))  # more would be refused before it is read
    os.truncate(out / "vectors.npy", size)
    manifest = read_published(index, IndexManifest, ValueError)
    files = tuple(dataclasses.replace(f, size=size) if f.path == "vectors.npy" else f for f in manifest.files)
    write_manifest(out, dataclasses.replace(manifest, files=files))
    return out


def test_the_process_reloads_what_a_link_points_to(tiny_bundle: Path, tiny_index: Path, tmp_path: Path) -> None:
    """Symbolic links are replaced, SIGHUP comes, the new index serves, and a new token may; SIGTERM ends
    both listeners, in the middle of a load too."""
    bundle, rng = Bundle.load(tiny_bundle), np.random.default_rng(6)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "index").symlink_to(tiny_index)
    (tmp_path / "deltas").mkdir()
    index_table(bundle, tiny.ads_table(rng, 200)).save(tmp_path / "next")
    arguments = [f"--bundle={tiny_bundle}", f"--index={tmp_path / 'index'}", f"--deltas={tmp_path / 'deltas'}"]
    arguments += ["--port=0", "--max-k=20", "--admin-port=0", f"--admin-token-file={tmp_path / 'token'}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tt_jax", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        urls = [found[0] for line in lines if (found := re.findall(r"http://127\.0\.0\.1:\d+", line))]
        assert len(urls) == 2, process.communicate()[1]
        with (
            httpx.Client(base_url=urls[0], timeout=60, headers=AUTHORIZED) as admin,
            httpx.Client(base_url=urls[1], timeout=60) as client,
        ):
            first = AdIndex.load(tiny_index).index_id
            assert post(client, {"query": QUERY})["index"] == first
            disabled = admin.post(
                "/admin/ads", content=json.dumps({"disable": [post(client, {"query": QUERY})["ads"][0]["id"]]})
            )
            assert disabled.json()["sequence"] == 1, disabled.text
            assert post(client, {"query": QUERY})["index"] == disabled.json()["version"]
            assert admin.get("/admin/status", headers=NEXT).status_code == 401
            (tmp_path / "token").write_text(f"{NEXT_TOKEN}\n{TOKEN}\n")
            (tmp_path / "new link").symlink_to(tmp_path / "next")
            os.replace(tmp_path / "new link", tmp_path / "index")
            delta = make_delta(bundle, Base.read(tmp_path / "next"), tiny.ads_table(rng, 3))
            delta.save(tmp_path / "deltas" / "1")
            process.send_signal(signal.SIGHUP)
            second, end = AdIndex.load(tmp_path / "next").index_id, time.monotonic() + 60
            while not post(client, {"query": QUERY})["index"].startswith(f"{second}+1."):
                assert time.monotonic() < end, admin.get("/admin/status").text
                time.sleep(0.05)
            status = admin.get("/admin/status", headers=NEXT).json()
            assert (status["loads"], status["deltas"]) == ({"done": 1, "failed": 0}, str(tmp_path / "deltas"))
            with ThreadPoolExecutor(1) as pool:
                other = {"bundle": str(tiny_bundle), "index": str(endless(tiny_index, tmp_path / "endless"))}
                load = pool.submit(admin.post, "/admin/load", content=json.dumps(other))
                time.sleep(0.2)
                assert not load.done(), load.result().text
                process.send_signal(signal.SIGTERM)
                told = error_of(load.result(), 409)
        out, err = process.communicate(timeout=10)  # the grace time
        reason = f"not loaded, {status['index_id'][:12]} goes on: the service is ending"
        assert (process.returncode, out, told) == (0, "", reason)
        lines = [line.split(" ", 1)[1] for line in err.splitlines()]
        assert [line for line in lines if line.startswith("WARNING load")] == [
            f'WARNING load outcome=failed model=tiny reason="the service is ending" goes_on={status["version"]}'
        ]
        assert [line for line in lines if line.startswith("INFO tokens")] == [
            f"INFO tokens outcome=done file={tmp_path / 'token'} tokens=2"
        ]
        assert any(line.startswith("INFO reload outcome=done ") for line in lines)
        assert "INFO change outcome=done " in err
        assert lines[-1] == "INFO stopped code=0"
    finally:
        process.kill()
        process.communicate()
