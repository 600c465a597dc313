"""Ours and a peer timed in the same run, alternating, so that whatever else the machine does falls on both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Pairs:
    """Seconds of both sides, pair by pair."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster ours is, by pair."""
        return tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))

    def cells(self) -> list[str]:
        """Median of each side, median ratio, smallest and largest ratio."""
        ours, peer, ratio = map(statistics.median, (self.ours, self.peer, self.ratios))
        return [seconds(ours), seconds(peer), f"{ratio:.3g}x", f"{min(self.ratios):.3g}-{max(self.ratios):.3g}"]


def alternate(ours: Callable[[], object], peer: Callable[[], object], pairs: int = 5) -> Pairs:
    """Time both sides `pairs` times after one run of each that does not count; the order changes with every pair."""
    ours()
    peer()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[side].append(timed((ours, peer)[side]))
    return Pairs(tuple(times[0]), tuple(times[1]))


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call; the garbage of what ran before is collected outside of it."""
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def seconds(value: float) -> str:
    """0.00123 -> "1.23 ms"."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def status(field: str) -> int:
    """A field of /proc/self/status, such as VmHWM, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table, "")


def run_named(comparisons: Sequence[Callable[[], None]], names: Sequence[str]) -> None:
    """Run the comparisons of these names, all of them by default."""
    known = {comparison.__name__: comparison for comparison in comparisons}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: not known; there are {', '.join(known)}")
    for name in names or known:
        known[name]()
