"""A keyword index of 1,000,000 passages on one machine: time, memory, disk, queries a second.

Passages of 20 to 100 words are drawn by Zipf's law from 500,000 words with a seed, and streamed: none is kept. They are
indexed twice, a tenth of them first, so that growth shows. Building, adding and searching are processes of their own;
each reads its peak resident memory from the kernel: mapped files count in "peak", and not in "own". Linux only.

    python benchmarks/million_passages.py                          1,000,000 passages: about 10 minutes, 1.5 GB of disk
    python benchmarks/million_passages.py --passages 100000
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from _timing import seconds, show, status
from fullrank.search import BM25Retriever, Document

MIB = 1 << 20
VOCABULARY, EXPONENT = 500_000, 1.0
SHORTEST, LONGEST, BLOCK = 20, 100, 10_000
QUERIES, WORDS_A_QUERY, COMMON = 500, 4, 50


def words() -> np.ndarray:
    """Words of 2 to 9 letters, the frequent ones short, as in a language."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    base = len(letters)

    def word(number: int) -> str:
        spelled = []
        number += base
        while number:
            number, letter = divmod(number, base)
            spelled.append(letters[letter])
        return "".join(spelled)

    return np.array([word(number) for number in range(VOCABULARY)], dtype=object)


def cumulated() -> np.ndarray:
    """Zipf's law: the probability that a word is the n-th most frequent or one before it."""
    weights = 1 / np.arange(1, VOCABULARY + 1) ** EXPONENT
    return np.cumsum(weights / weights.sum())


def passages(count: int) -> Iterator[Document]:
    """The same ones at every call."""
    rng, vocabulary, below = np.random.default_rng(0), words(), cumulated()
    for start in range(0, count, BLOCK):
        lengths = rng.integers(SHORTEST, LONGEST + 1, min(BLOCK, count - start))
        drawn = vocabulary[np.searchsorted(below, rng.random(int(lengths.sum())))]
        ends = np.cumsum(lengths)
        for number, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True), start):
            yield Document(f"passage-{number}", " ".join(drawn[end - length : end]))


def queries() -> dict[str, str]:
    """Words as they occur in passages, less the most frequent, which a language's stop words would be."""
    rng, vocabulary, below = np.random.default_rng(1), words(), cumulated()
    drawn = np.searchsorted(below, below[COMMON] + rng.random((QUERIES, WORDS_A_QUERY)) * (1 - below[COMMON]))
    return {f"q{number}": " ".join(vocabulary[row]) for number, row in enumerate(drawn)}


def build(folder: Path, count: int) -> dict[str, Any]:
    began = time.perf_counter()
    retriever = BM25Retriever().build(passages(count), scratch=folder / "building")
    retriever.save(folder / "index")
    return {"seconds": time.perf_counter() - began}


def generate(_: Path, count: int) -> dict[str, Any]:
    began = time.perf_counter()
    for _passage in passages(count):
        pass
    return {"seconds": time.perf_counter() - began}


def search(folder: Path, _: int) -> dict[str, Any]:
    began = time.perf_counter()
    retriever = BM25Retriever.load(folder / "index")
    opened = time.perf_counter() - began
    asked = list(queries().items())
    times: list[float] = []
    for id, text in asked:
        start = time.perf_counter()
        retriever.search({id: text}, 10)
        times.append(time.perf_counter() - start)
    began = time.perf_counter()
    retriever.search(dict(asked), 10)
    return {
        "opened": opened,
        "first": times[0],
        "once": len(times) / sum(times),
        "median": statistics.median(times),
        "again": len(asked) / (time.perf_counter() - began),
    }


def measured(work: Callable[[Path, int], dict[str, Any]], folder: Path, count: int) -> dict[str, Any]:
    """What a process of its own finds, with its memory in MiB: before, at its peak, and its own at the end."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_memory, (work, folder, count))


def _with_memory(work: Callable[[Path, int], dict[str, Any]], folder: Path, count: int) -> dict[str, Any]:
    BM25Retriever()  # whatever libraries it loads
    before = status("VmRSS")
    found = work(folder, count)
    return found | {"before": before / MIB, "peak": status("VmHWM") / MIB, "own": status("RssAnon") / MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to build, in place of a temporary folder")
    options = parser.parse_args()
    built, searched = [], []
    for count in (options.passages // 10, options.passages):
        with TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            made = measured(generate, folder, count)["seconds"]
            found = measured(build, folder, count)
            size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
            memory = [f"{found[part]:,.0f}" for part in ("before", "peak", "own")]
            built.append([f"{count:,}", seconds(found["seconds"] - made), *memory, f"{size / MIB:,.0f}"])
            found = measured(search, folder, count)
            times = [seconds(found[part]) for part in ("opened", "first", "median")]
            rates = [f"{found[part]:,.0f}" for part in ("once", "again")]
            memory = [f"{found[part]:,.0f}" for part in ("before", "peak", "own")]
            searched.append([f"{count:,}", *times, *rates, *memory])
    show("build and save (MiB)", ["passages", "time less text", "before", "peak", "own at end", "disk"], built)
    show(
        f"{QUERIES} queries of {WORDS_A_QUERY} words, the 10 best (MiB)",
        ["passages", "open", "first query", "median", "queries/s", "again", "before", "peak", "own at end"],
        searched,
    )


if __name__ == "__main__":
    main()
