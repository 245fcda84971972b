"""Which extra of this package installs what an import did not find."""

from __future__ import annotations

# Extra -> the import packages that it brings, besides those of a bare install. `pyproject.toml` has the distributions.
EXTRAS = {
    "train": (
        "absl", "array_record", "fsspec", "google", "grain", "ml_collections", "optax", "orbax", "pyarrow",
        "scipy", "tensorboardX", "tqdm",
    ),
    "tfds": ("importlib_resources", "tensorflow_datasets"),
    "ray": ("ray",),
    "report": ("jinja2", "matplotlib"),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
}  # fmt: skip


def missing_package(error: BaseException) -> str:
    """`needs PACKAGE; pip install 'tt-jax[EXTRA]'`, of a failed import of a package that an extra brings; else ""."""
    cause = error
    while not isinstance(cause, ModuleNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__  # fsspec raises an ImportError in place of it
    package = str(getattr(cause, "name", "")).split(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    return f"needs {package}; pip install 'tt-jax[{extra}]'" if extra else ""
