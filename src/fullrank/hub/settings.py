"""What an operator decides about a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What an operator decides about a hub.

    Attributes:
        runs: folder of runs; the hub keeps its own files in `.hub` inside it.
        models: folders whose models and data visitors may name by path.
        hosts: host names the hub answers to; others are refused, so that a foreign page cannot reach it by a name that
            it points here.
        workers: jobs that run at once; the others wait.
        waiting: jobs that may wait.
    """

    runs: Path
    models: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    workers: int = 1
    waiting: int = 20

    def __post_init__(self) -> None:
        for folder in self.models:
            if not folder.is_dir():
                raise ValueError(f"models={folder} is not a folder; name one that holds models, or leave it out")

    @property
    def folder(self) -> Path:
        """The hub's own files."""
        return self.runs / ".hub"
