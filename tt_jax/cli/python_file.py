"""A user's Python file as a module: a configuration, a recipe, or both."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_python(path: str | Path, name: str, where: str, error: type[ValueError]) -> ModuleType:
    """Executes a file as the module `name`; it may import what lies beside it, or in the current directory.

    Raises `error`, its message beginning with `where`, if that fails.
    """
    if not Path(path).is_file():
        raise error(f"{where}: no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{where}: expected a Python file, *.py")
    folders = (str(Path(path).resolve().parent), str(Path.cwd()))
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]  # last: they hide nothing
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # whatever the user's file raises
        raise error(f"{where}: {type(e).__name__}: {e}") from e
    return module
