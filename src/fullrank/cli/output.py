"""What the verbs share: JSON for programs, progress on the error stream, arguments of several numbers, output files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fullrank._files import require_writable, to_json

console = Console()
errors = Console(stderr=True)

LARGEST_SEED = 2**32 - 1  # of NumPy's and scikit-learn's older generators

VERDICT_STYLE = {"reproduced": "green", "not reproduced": "red", "not measured": "dim"}


def harmless(text: str) -> str:
    """A text of others on one line, without what a terminal would take as commands."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def print_json(value: Any) -> None:
    """Strict JSON on the standard output, and nothing else."""
    print(to_json(value))


def read_seeds(text: str) -> tuple[int, ...]:
    """The numbers in "0,1,2".

    Raises:
        ValueError: it is written in another way, a seed is none that NumPy takes, or one comes twice, which would make
            the spread over seeds smaller than it is.
    """
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) <= LARGEST_SEED:
        raise ValueError(
            f'--seeds "{text}": different whole numbers from 0 to {LARGEST_SEED}, divided by commas, are accepted, '
            "such as 0,1,2"
        )
    return seeds


def check_outputs(outputs: Sequence[Path], kinds: Sequence[str], overwrite: bool) -> None:
    """See that files can be written, before the work of which they tell.

    Raises:
        ValueError: a name ends in none of `kinds`.
        OSError: as `check_places`.
    """
    for path in outputs:
        if path.suffix.lower() not in kinds:
            known = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
            raise ValueError(f"{path}: a name that ends in {known} is accepted")
    check_places(outputs, overwrite)


def check_places(outputs: Iterable[Path], overwrite: bool) -> None:
    """See that files can be written whatever they are called.

    Raises:
        FileExistsError: one is there, and is not to be replaced.
        OSError: a folder cannot be made or may not be written.
    """
    for path in outputs:
        if path.exists() and not overwrite:
            raise FileExistsError(17, "File exists; name another one, or add --overwrite", str(path))
        require_writable(path)


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on the error stream; gives the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def move(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total or None, description=text)

        yield move
