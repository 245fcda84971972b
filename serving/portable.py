"""Scores with a bundle where this package is not installed: StableHLO, NumPy arrays and JSON.

This file needs JAX, NumPy, and flatbuffers, with which JAX reads StableHLO; nothing of ours. Copy it into a service, or
read it as the specification of how to use a bundle from elsewhere.

    python portable.py BUNDLE                       verifies every byte, and the probabilities of the golden rows

    bundle, index = PortableBundle.load("bundles/b"), PortableIndex.load("indexes/i")
    positions, utility, probabilities = bundle.rank(index, query_ids, query_floats)    # index.ids[positions[0]]

Requests come encoded. The encoder (`tt_jax/features/encoder.py` and the files that it imports) needs NumPy only, so it
can be copied too; `golden.json` and `stablehlo/golden.npz` have the same rows raw and encoded, to check another one by.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

FUNCTIONS = ("query_tower", "ad_tower", "scenarios", "scorer")
K = 100  # ads that the scorer ranks
TOLERANCE = 1e-4  # of a probability: float32 sums in another order
Expired = Literal["refuse", "fall back"]
_log = logging.getLogger(__name__)


class PortableError(ValueError):
    """A bundle or an index that must not be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True, eq=False)
class PortableIndex:
    """N embedded ads: `vectors` float32 `[N, T, D]`, `ids`, `bids` float32 `[N]`, `valid` bool `[N]`, and `attributes`,
    name -> array, see `serving/eligibility/ad_attributes.py`."""

    vectors: np.ndarray
    ids: Any
    bids: np.ndarray
    valid: np.ndarray
    fingerprint: str
    attributes: Mapping[str, np.ndarray]

    @staticmethod
    def load(path: str | Path) -> PortableIndex:
        """Reads what `tt-jax index` wrote. Raises `PortableError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = _verified(path, "tt-jax ad index", 1, 2, 3)
        vectors, bids, valid = (_arrays(path / f"{name}.npy") for name in ("vectors", "bids", "valid"))
        if manifest["dtype"] == "bf16":
            vectors = vectors.view(np.dtype(jnp.bfloat16)).astype(np.float32)
        elif manifest["dtype"] == "int8":  # D numbers, then the bytes of a float32
            scales = np.ascontiguousarray(vectors[..., -4:]).view(np.float32)
            vectors = vectors[..., :-4].astype(np.float32) * scales
        if manifest["id_dtype"] == "string":
            ids = json.loads((path / "ids.json").read_text(encoding="utf-8"))
        else:
            ids = _arrays(path / "ids.npy")
        packed = path / "attributes.npz"
        attributes = _arrays(packed) if packed.exists() else {}
        return PortableIndex(vectors, ids, bids, valid, manifest["fingerprint"], attributes)


@dataclass(frozen=True, eq=False)
class PortableBundle:
    """A verified bundle: weights, and functions of them, see `tt_jax/bundle/stablehlo.py`."""

    path: Path
    manifest: Mapping[str, Any]
    params: Mapping[str, np.ndarray]
    tables: Mapping[str, np.ndarray]
    functions: Mapping[str, Callable[..., Any]]

    @staticmethod
    def load(path: str | Path, expired: Expired = "refuse") -> PortableBundle:
        """Reads what `tt-jax export` wrote. Raises `PortableError` unless every file is exactly as it was written.

        `expired`: what happens past the date until which JAX promises to run the StableHLO, or where this JAX cannot
        read it: `refuse` raises, `fall back` logs one line and computes the same from weights and configuration, which
        needs the package tt-jax.
        """
        path = Path(path)
        manifest = _verified(path, "tt-jax bundle", 2)
        arrays = _arrays(path / "weights.npz")
        params, tables = (
            {key.removeprefix(group): array for key, array in arrays.items() if key.startswith(group)}
            for group in ("params/", "tables/")
        )
        return PortableBundle(path, manifest, params, tables, _functions(path, manifest, expired))

    def embed(self, tower: Literal["query", "ad"], ids: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """Vectors float32 `[n, T, D]` of encoded queries or ads: int32 `[n, S]`, float32 `[n, F]`."""
        return np.asarray(self.functions[f"{tower}_tower"](self.params, self.tables, ids, floats))

    def rank(
        self,
        index: PortableIndex,
        ids: np.ndarray,
        floats: np.ndarray,
        values: Mapping[str, float] | None = None,
        serving: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best 100 valid ads for each of b encoded queries, best first.

        `values`: request values of the utility that are not at their defaults. `serving`: bool `[N]`, the ads that may
        serve these queries by attributes of `index`; None = all.

        Returns positions in the index int32 `[b, 100]`, utilities float32 `[b, 100]`, -inf where there is no further
        valid ad, and probabilities float32 `[b, 100, T]`. Raises `PortableError` for the index of another bundle.
        """
        if index.fingerprint != self.manifest["fingerprint"]:
            raise PortableError(
                f"the index was made by the bundle {index.fingerprint}, but this one is {self.manifest['fingerprint']}"
            )
        spare = max(0, K - len(index.vectors))
        ads = (
            np.pad(index.vectors, ((0, spare), (0, 0), (0, 0))),
            np.pad(index.bids, (0, spare)),
            np.pad(index.valid if serving is None else index.valid & serving, (0, spare)),
        )
        others = self._others(index.attributes, values or {}, (len(ids), len(ads[1])))
        scenarios = np.asarray(self.functions["scenarios"](ids))
        return self._score(self.embed("query", ids, floats), *ads, scenarios, *others)

    def _others(
        self, numbers: Mapping[str, np.ndarray], values: Mapping[str, float], shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """What the scorer takes of numbers of ads and values of requests: an array, or none."""
        schema = json.loads((self.path / "schema.json").read_text(encoding="utf-8"))
        used = re.findall(r"[A-Za-z_]\w*", self.manifest["utility"])
        found = []
        for a in schema.get("attributes", ()):
            if a["kind"] == "number" and a["name"] in used:
                own = numbers.get(a["name"], np.full(shape[1], a["default"] or 0, np.float32))
                found.append(np.broadcast_to(np.pad(own, (0, shape[1] - len(own))), shape))
        for v in schema.get("request_values", ()):
            if v["name"] in used:
                found.append(np.full(shape, values.get(v["name"], v["default"])))
        return [np.stack(found, axis=-1).astype(np.float32)] if found else []

    def replay_golden(self) -> float:
        """Largest difference of a probability of the golden rows. Raises `PortableError` past `TOLERANCE`."""
        golden = _arrays(self.path / "stablehlo" / "golden.npz")
        queries, ads = (self.embed(t, golden[f"{t}_ids"], golden[f"{t}_floats"]) for t in ("query", "ad"))
        scenarios, worst = np.asarray(self.functions["scenarios"](golden["query_ids"])), 0.0
        for i, expected in enumerate(golden["probabilities"]):  # the scorer ranks, so each row has an ad of its own
            ad = np.repeat(ads[i : i + 1], K, axis=0)
            ones, others = (np.ones(K, np.float32), np.ones(K, bool)), self._others({}, {}, (1, K))
            got = self._score(queries[i : i + 1], ad, *ones, scenarios[i : i + 1], *others)[2][0, 0]
            worst = max(worst, float(np.abs(got - expected).max()))
        if not worst <= TOLERANCE:
            raise PortableError(f"{self.path}: golden rows differ by {worst:.2g}; expected at most {TOLERANCE}")
        return worst

    def _score(
        self, queries: np.ndarray, ads: np.ndarray, *rest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ranked = self.functions["scorer"](queries, ads, self.params["bias"], *rest)
        positions, utility, probabilities = map(np.asarray, ranked)
        return positions, utility, probabilities


def _functions(path: Path, manifest: Mapping[str, Any], expired: Expired) -> dict[str, Callable[..., Any]]:
    problem = ""
    if datetime.datetime.now(datetime.UTC).date().isoformat() > manifest["stablehlo_expires"]:
        problem = f"expired on {manifest['stablehlo_expires']}"
    else:
        try:
            stored = {name: (path / "stablehlo" / f"{name}.bin").read_bytes() for name in FUNCTIONS}
            return {n: jax.jit(jax.export.deserialize(bytearray(data)).call) for n, data in stored.items()}
        except Exception as e:  # of a version that this JAX does not know: any kind, from deep inside
            problem = f"cannot be read by JAX {jax.__version__} ({type(e).__name__})"
    if expired == "refuse":
        raise PortableError(f"{path}: its StableHLO {problem}; export the bundle again, or fall back to its weights")
    try:
        from tt_jax.bundle.reader import Bundle
        from tt_jax.bundle.stablehlo import stablehlo_functions
        from tt_jax.utility import Utility
    except ModuleNotFoundError as e:
        raise PortableError(f"{path}: its StableHLO {problem}, and there is no {e.name} to fall back to") from None
    _log.warning("%s: its StableHLO %s: computing from weights and configuration", path, problem)
    bundle = Bundle.load(path)
    utility = Utility.parse(bundle.manifest.utility, bundle.schema.heads, bundle.schema.utility_names)
    return {n: jax.jit(a.function) for n, a in stablehlo_functions(bundle.model, utility, bundle.calibration).items()}


def _arrays(path: Path) -> Any:
    """The array of an .npy file, or all of an .npz by name; nothing in them is unpacked or unpickled."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with zipfile.ZipFile(path) as packed:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise ValueError("packed arrays; expected them as they are")
        with path.open("rb") as f, np.load(f, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as e:  # zipfile, tokenize and NumPy raise every kind for a damaged file
        raise PortableError(f"{path}: NumPy cannot read it: {e}") from None


def _verified(path: Path, kind: str, *versions: int) -> dict[str, Any]:
    """The manifest of a published directory, once every byte has been found to be as it says."""
    try:
        data = (path / "manifest.json").read_bytes()
        fields = json.loads(data)
        if fields["format"] != kind or fields["format_version"] not in versions:
            reads = " or ".join(map(str, versions))
            got = f"{fields['format']!r} version {fields['format_version']!r}"
            raise PortableError(f"{path / 'manifest.json'}: expected {kind!r} version {reads}, found {got}")
        digest = fields.pop("digest")
        body = json.dumps(fields, indent=1, sort_keys=True)
        whole = json.dumps({**fields, "digest": digest}, indent=1, sort_keys=True) + "\n"
        if hashlib.sha256(body.encode()).hexdigest() != digest or whole.encode() != data:
            raise PortableError(f"{path / 'manifest.json'}: it was changed after it was written")
        expected = {f["path"]: f["sha256"] for f in fields["files"]}
    except (OSError, KeyError, TypeError, AttributeError) as e:
        raise PortableError(f"{path}: expected a directory with a manifest.json of {kind!r}: {e}") from None
    except RecursionError:
        raise PortableError(f"{path / 'manifest.json'}: nested too deeply") from None
    except PortableError:
        raise
    except ValueError as e:
        raise PortableError(f"{path / 'manifest.json'}: not valid JSON: {e}") from None
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}
    for name in sorted(present ^ {*expected, "manifest.json"}):
        raise PortableError(f"{path / name}: {'not in the manifest' if name in present else 'missing'}")
    for name, sha256 in expected.items():
        with (path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256 or (path / name).is_symlink():
            raise PortableError(f"{path / name}: its content is not what was written")
    return fields


def main() -> None:
    """Verifies a bundle and replays its golden rows, or ends with one line of what is wrong."""
    parser = argparse.ArgumentParser(description="Verifies a bundle and replays its golden rows by StableHLO.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--expired", choices=("refuse", "fall back"), default="refuse", help="of StableHLO (default refuse)"
    )
    args = parser.parse_args()
    try:
        worst = PortableBundle.load(args.bundle, args.expired).replay_golden()
    except PortableError as e:
        parser.exit(2, f"{parser.prog}: error: {e}\n")
    print(f"{args.bundle}: sound; the golden rows differ by at most {worst:.2g}")


if __name__ == "__main__":
    main()
