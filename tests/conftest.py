"""Golden cases are data: every case found in `--golden DIR` is run, and a paper without a golden test is listed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

DEFAULT_GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case of a paper: what its `.json` says, and the tensors beside it."""

    slug: str
    name: str
    folder: Path

    @property
    def spec(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @property
    def tensors(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        file = self.folder / f"{self.name}.safetensors"
        return load_file(file) if file.exists() else {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=DEFAULT_GOLDEN, help="folder of golden cases: DIR/SLUG/CASE.json")


def pytest_configure() -> None:
    """A shell's background job is started with interrupts ignored, and its children inherit that: tests send them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def golden_cases(root: Path, slug: str, kind: str | None = None) -> list[GoldenCase]:
    folder = root / slug
    cases = [GoldenCase(slug, file.stem, folder) for file in sorted(folder.glob("*.json"))]
    return cases if kind is None else [case for case in cases if case.spec["kind"] == kind]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.golden("slug")` on a test that takes `case`: one test for every case of that paper.

    `@pytest.mark.golden("slug", kind="...")` takes those whose `.json` says that they are of that kind.
    """
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None or "case" not in metafunc.fixturenames:
        return
    cases = golden_cases(metafunc.config.getoption("--golden"), *marker.args, **marker.kwargs)
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def pytest_collection_finish(session: pytest.Session) -> None:
    tested = {marker.args[0] for item in session.items if (marker := item.get_closest_marker("golden"))}
    session.config.stash[_TESTED] = tested


_TESTED = pytest.StashKey[set[str]]()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the shape checks off, to meet the errors that a user without them meets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    root: Path = config.getoption("--golden")
    if not root.is_dir() or not config.stash.get(_TESTED, set()):
        return
    untested = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and any(folder.glob("*.json")))
    untested = [slug for slug in untested if slug not in config.stash[_TESTED]]
    if untested:
        terminalreporter.section("papers without a golden test")
        terminalreporter.line(", ".join(untested))
