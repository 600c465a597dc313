"""`Trial`: what a study is given, and where its results go."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from fullrank._files import write_bytes, write_json
from fullrank._saving import svg

Scale = Literal["smoke", "quick", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Number = int | float
Measured = Number | Mapping[str, Number]
Stated = Measured | str
Item = TypeVar("Item")
Choice = TypeVar("Choice")


class Cancelled(Exception):
    """The study was asked to stop; what its finished steps computed is kept for the next run."""


@dataclass
class Trial:
    """The context of one study: its scale, device and seeds; its progress; its results.

    A study never prints and never writes files itself. What takes long goes through `step`, so that a killed run
    resumes after its last finished step.

    Args:
        claim_ids: the claims that may be measured.
        scale: "smoke" (seconds), "quick" (one to five minutes on two CPU cores), "full" (one GPU).
        scratch: folder for resuming; survives a kill, is removed when the run finishes.
        device: torch device name.
        seeds: seeds to repeat training over.
        on_progress: called with (done, total, text).
        should_stop: asked at every progress report; True raises `Cancelled`.
    """

    claim_ids: tuple[str, ...]
    scale: Scale
    scratch: Path
    device: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None
    should_stop: Callable[[], bool] = lambda: False
    measurements: dict[str, Measured] = field(default_factory=dict)
    spreads: dict[str, Measured] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pick(self, *, smoke: Choice, quick: Choice, full: Choice) -> Choice:
        """The value that belongs to this trial's scale."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.scale]

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Compute on one core: for networks so small that threads wait for each other longer than they work."""
        import torch  # the catalogue does without

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def measure(self, claim_id: str, value: Measured, spread: Measured | None = None) -> None:
        """Report what was measured for a claim; its verdict is computed from this.

        Args:
            claim_id: one of the paper's claims.
            value: a number, or numbers by name when the claim is an ordering or a ratio.
            spread: standard deviation over seeds, in the shape of `value`.

        Raises:
            LookupError: no such claim.
            ValueError: the claim was measured already, or a number is NaN or infinite.
        """
        if claim_id not in self.claim_ids:
            raise LookupError(f"claim {claim_id!r} is not declared; the paper's claims are {', '.join(self.claim_ids)}")
        if claim_id in self.measurements:
            raise ValueError(f"claim {claim_id!r} was measured already in this trial")
        measured = _plain(claim_id, value)
        if spread is not None:
            self.spreads[claim_id] = _plain(claim_id, spread)
        self.measurements[claim_id] = measured

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a table: equally keyed rows of numbers and strings."""
        self.tables[_name(name)] = [{key: _cell(value) for key, value in row.items()} for row in rows]

    def figure(self, name: str, figure: Any) -> None:
        """Keep a matplotlib figure, as SVG with real text.

        Args:
            name: short name in kebab-case; becomes the file's name.
            figure: a `matplotlib.figure.Figure`; it is closed.
        """
        self.figures[_name(name)] = svg(figure)

    def note(self, text: str) -> None:
        """Keep a remark: a contradiction, a caveat, what the numbers mean. One paragraph."""
        self.notes.append(text)

    def progress(self, done: int, total: int, text: str) -> None:
        """Report progress.

        Raises:
            Cancelled: the user asked the run to stop.
        """
        if self.should_stop():
            raise Cancelled(text)
        self.on_progress(done, total, text)

    def track(self, items: Iterable[Item], text: str, total: int | None = None) -> Iterator[Item]:
        """Iterate and report progress before every item.

        Raises:
            Cancelled: the user asked the run to stop.
        """
        if total is None:
            items = list(items)
            total = len(items)
        for done, item in enumerate(items):
            self.progress(done, total, text)
            yield item
        self.progress(total, total, text)

    def step(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of `compute()`, taken from the scratch folder where a killed run left it.

        Args:
            key: names the step and everything it depends on ("vicreg cov=0.2 seed=1").
            compute: returns JSON-like data (numbers, strings, lists, dictionaries with string keys). JSON knows
                neither NaN nor infinity: they come back as None.
        """
        file = self.scratch / "steps" / f"{_file_name(key)}.json"
        if file.exists():
            return json.loads(file.read_text())["value"]
        value = compute()
        write_json(file, {"key": key, "value": value})
        return json.loads(file.read_text())["value"]  # the same types whether resumed or not

    def tensors(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Like `step`, for tensors by name (a trained model's state)."""
        from safetensors.torch import load, save  # brings torch, which the catalogue does without

        file = self.scratch / "steps" / f"{_file_name(key)}.safetensors"
        if not file.exists():
            write_bytes(file, save({name: tensor.detach().contiguous() for name, tensor in compute().items()}))
        return {name: tensor.to(self.device) for name, tensor in load(file.read_bytes()).items()}


def _plain(claim_id: str, value: Measured) -> Measured:
    if isinstance(value, Mapping):
        return {str(name): _number(claim_id, number) for name, number in value.items()}
    return _number(claim_id, value)


def _number(claim_id: str, value: Number) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"claim {claim_id!r} was measured as {number}, which no predicate can judge: leave the claim unmeasured "
            "and say why with `trial.note`"
        )
    return number


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value)


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name={name!r}: tables and figures are named in kebab-case, such as 'rank-by-layer'")
    return name


def _file_name(key: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9.=-]+", "_", key)[:80]
    return f"{readable}-{sha256(key.encode()).hexdigest()[:10]}"
