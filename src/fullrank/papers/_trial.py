"""`Trial`: what a study is given, and where its results go."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from fullrank._files import write_bytes, write_json
from fullrank._saving import svg
from fullrank.papers._environment import peak_memory

Scale = Literal["smoke", "quick", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Number = int | float
Measured = Number | Mapping[str, Number]
Stated = Measured | str
Item = TypeVar("Item")
Choice = TypeVar("Choice")


def _unheard(done: int, total: int, text: str) -> None:
    """Progress that nobody asked for."""


def _never() -> bool:
    return False


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

    Attributes:
        worker_memory: process -> peak resident memory in bytes, of the processes that computed steps side by side.
    """

    claim_ids: tuple[str, ...]
    scale: Scale
    scratch: Path
    device: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    on_progress: Callable[[int, int, str], None] = _unheard
    should_stop: Callable[[], bool] = _never
    measurements: dict[str, Measured] = field(default_factory=dict)
    spreads: dict[str, Measured] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    worker_memory: dict[int, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """In a process of its own, a step reports to nobody."""
        return {**vars(self), "on_progress": _unheard, "should_stop": _never}

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
        file = self._file(key)
        if not file.exists():
            write_json(file, {"key": key, "value": compute()})
        return json.loads(file.read_text())["value"]  # the same types whether resumed or not

    def steps(self, plan: Mapping[str, Callable[[], Any]], text: str) -> list[Any]:
        """Like `step`, for steps that do not need each other: on the CPU one core computes one of them.

        Outside "smoke" they run in processes of their own, a thread each, because small networks wait for their
        threads longer than they work. What a step needs travels to it by pickle.

        Args:
            plan: key -> compute, as in `step`.
            text: shown as progress.

        Returns:
            The results in the order of the plan.

        Raises:
            Cancelled: the user asked the run to stop.
        """
        todo = [key for key in plan if not self._file(key).exists()]
        self.progress(0, len(todo), text)
        with closing(self._side_by_side([(key, plan[key]) for key in todo])) as values:
            for done, (key, value) in enumerate(values, 1):
                write_json(self._file(key), {"key": key, "value": value})
                self.progress(done, len(todo), text)
        return [json.loads(self._file(key).read_text())["value"] for key in plan]

    def _side_by_side(self, todo: list[tuple[str, Callable[[], Any]]]) -> Generator[tuple[str, Any]]:
        """Results by key, as they come."""
        from joblib import Parallel, cpu_count, delayed

        processes = min(cpu_count(), len(todo))
        if self.scale == "smoke" or self.device != "cpu" or processes < 2:
            yield from ((key, compute()) for key, compute in todo)
            return
        # Arrays are not mapped from a file, which would make them read-only.
        workers = Parallel(processes, return_as="generator_unordered", inner_max_num_threads=1, max_nbytes=None)
        results: Any = workers(delayed(_alone)(key, compute) for key, compute in todo)
        with warnings.catch_warnings(), closing(results):
            warnings.filterwarnings("ignore", message=".*have been cancelled")  # as the user wished
            warnings.filterwarnings("ignore", message="A worker stopped while")  # and a new one took its place
            for key, value, process, memory in results:
                self.worker_memory[process] = memory
                yield key, value

    def tensors(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Like `step`, for tensors by name (a trained model's state)."""
        from safetensors.torch import load, save  # brings torch, which the catalogue does without

        file = self._file(key, "safetensors")
        if not file.exists():
            write_bytes(file, save({name: tensor.detach().contiguous() for name, tensor in compute().items()}))
        return {name: tensor.to(self.device) for name, tensor in load(file.read_bytes()).items()}

    def all_tensors(self, plan: Mapping[str, Callable[[], Mapping[str, Any]]], text: str) -> list[dict[str, Any]]:
        """Like `tensors`, side by side as in `steps`."""
        self.steps({f"tensors {key}": partial(self._keep_tensors, key, compute) for key, compute in plan.items()}, text)
        return [self.tensors(key, compute) for key, compute in plan.items()]

    def _keep_tensors(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> None:
        self.tensors(key, compute)

    def _file(self, key: str, suffix: str = "json") -> Path:
        return self.scratch / "steps" / f"{_file_name(key)}.{suffix}"


def _alone(key: str, compute: Callable[[], Any]) -> tuple[str, Any, int, int]:
    """One step in a process of its own: its result, the process and how much memory that has needed."""
    import torch

    torch.set_num_threads(1)
    return key, compute(), os.getpid(), peak_memory()


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
