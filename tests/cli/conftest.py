"""The command in the process of the test, in folders of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fullrank.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a call of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one message of bad input: nothing else is printed, and no traceback; what it continues is indented."""
        assert self.code == 2, self
        assert self.out == ""
        assert "Traceback" not in self.err
        first, *more = self.err.strip().splitlines()
        assert first.startswith("error: ")
        assert all(line.startswith("  ") for line in more), self.err
        return first.removeprefix("error: ")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs` and `results` below a folder that is the working directory."""
    monkeypatch.setenv("FULLRANK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FULLRANK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fullrank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`fullrank("show", "rankme")` is the command with these arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fullrank", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        return Outcome(exit.value.code or 0, out, err)

    return call
