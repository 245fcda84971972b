"""The command line, called in this process."""

from __future__ import annotations

import pytest

from tt_jax.cli.main import main


class Call:
    """One call of the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in arguments])
        out, err = self._capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, out, err

    def refused(self, *arguments: object) -> str:
        """The error of a call that must fail, without its prefix: one line, and nothing else."""
        code, out, err = self(*arguments)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith("tt-jax: error: ")
        return line.removeprefix("tt-jax: error: ")
