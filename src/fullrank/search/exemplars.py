"""Solved examples for a language model's prompt: found, ordered, written down, and what is read from its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fullrank.search.bm25 import BM25Retriever
from fullrank.search.dense import Encoder, nearest
from fullrank.search.index_folder import open_index, save_index
from fullrank.search.protocols import Document

_MARKED = re.compile(r"####?\s*(-?[\d,]+(?:\.\d+)?)|answer is\s*\$?(-?[\d,]*\d(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Exemplar:
    """A question and its solution.

    Attributes:
        id: unique in its pool.
        question: as it is asked.
        solution: step by step; GSM8K's marks are as they stand there.
    """

    id: str
    question: str
    solution: str

    @property
    def text(self) -> str:
        """Question and solution, without a calculator's marks: what is encoded."""
        return f"{self.question}\t{plain_solution(self.solution)}"

    @property
    def steps(self) -> int:
        """Lines of the solution."""
        return sum(bool(line.strip()) for line in self.solution.splitlines())


class ExemplarRetriever:
    """Exemplars by the inner product of encoded texts.

    Args:
        encoder: an object with `encode(texts)`.
        normalize: whether vectors get unit length; the paper's have their own.
        transform: applied to the vectors, such as a trained head.
    """

    def __init__(
        self,
        encoder: Encoder,
        normalize: bool = False,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.encoder, self.normalize, self.transform = encoder, normalize, transform
        self.exemplars: list[Exemplar] = []
        self.vectors = torch.zeros(0, 0)

    def index(self, exemplars: Sequence[Exemplar], by: Callable[[Exemplar], str] | None = None) -> ExemplarRetriever:
        """Encode exemplars, in place of those before.

        Args:
            exemplars: the pool.
            by: the text that is encoded; default question and solution.

        Raises:
            ValueError: none, or an id twice.
        """
        ids = [exemplar.id for exemplar in exemplars]
        if not ids:
            raise ValueError("exemplars=[] leaves nothing to choose from; give at least one")
        if len(set(ids)) < len(ids):
            raise ValueError("two exemplars have the same id; ids are unique in a pool")
        self.vectors = self.encode([by(e) if by else e.text for e in exemplars])
        self.exemplars = list(exemplars)
        return self

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors of texts."""
        vectors = torch.as_tensor(np.asarray(self.encoder.encode(list(texts)))).float()
        vectors = vectors if self.transform is None else self.transform(vectors).detach()
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def search(self, text: str, k: int, exclude_ids: Collection[str] = ()) -> list[tuple[Exemplar, float]]:
        """The k exemplars nearest to a text, and their inner products.

        Raises:
            RuntimeError: nothing is indexed yet.
        """
        places, scores = self.places(self.encode([text]), k, exclude_ids)[0]
        return [(self.exemplars[place], score) for place, score in zip(places, scores, strict=True)]

    def places(
        self, queries: torch.Tensor, k: int, exclude_ids: Collection[str] = ()
    ) -> list[tuple[list[int], list[float]]]:
        """Places in the pool and inner products of the k nearest of every query vector."""
        if not self.exemplars:
            raise RuntimeError("nothing is indexed yet: call index(exemplars) first")
        excluded = {place for place, e in enumerate(self.exemplars) if e.id in set(exclude_ids)}
        scores, found = nearest(queries, self.vectors, min(k + len(excluded), len(self.vectors)))
        return [_kept(row.tolist(), values.tolist(), excluded, k) for row, values in zip(found, scores, strict=True)]

    def save(self, folder: str | Path) -> Path:
        """Write vectors and exemplars; the encoder is given again to `load`."""
        about = {"exemplars": [asdict(exemplar) for exemplar in self.exemplars], "normalize": self.normalize}
        return save_index(
            folder,
            "ExemplarRetriever",
            about,
            lambda files: save_file({"vectors": self.vectors.contiguous()}, files / "vectors.safetensors"),
        )

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder) -> ExemplarRetriever:
        """Open what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds none.
            ValueError: it is damaged.
        """

        def read(about: dict[str, Any], files: Path) -> ExemplarRetriever:
            made = cls(encoder, about["normalize"])
            made.exemplars = [Exemplar(**entry) for entry in about["exemplars"]]
            made.vectors = load_file(files / "vectors.safetensors")["vectors"]
            if len(made.vectors) != len(made.exemplars):
                raise ValueError(f"{len(made.vectors)} vectors, {len(made.exemplars)} exemplars")
            return made

        return open_index(folder, "ExemplarRetriever", read, (OSError, KeyError, TypeError, ValueError))


def random_exemplars(pool: Sequence[Exemplar], n: int, seed: int = 0) -> list[Exemplar]:
    """n of a pool, each set equally likely."""
    order = np.random.default_rng(seed).permutation(len(pool))[:n]
    return [pool[place] for place in order.tolist()]


def complex_exemplars(pool: Sequence[Exemplar], n: int) -> list[Exemplar]:
    """Those whose solutions have the most steps (Complex-CoT, Fu et al. 2023); ties in the pool's order."""
    return sorted(pool, key=lambda exemplar: -exemplar.steps)[:n]


def lexical_exemplars(
    pool: Sequence[Exemplar],
    texts: Sequence[str],
    n: int,
    by: Callable[[Exemplar], str] = lambda exemplar: exemplar.question,
) -> list[list[Exemplar]]:
    """Those that share the most words with every text, by BM25; where too few share any, the pool's first follow."""
    retriever = BM25Retriever().build([Document(exemplar.id, by(exemplar)) for exemplar in pool])
    by_id = {exemplar.id: exemplar for exemplar in pool}
    run = retriever.search(list(texts), n)
    chosen = []
    for number in range(len(texts)):
        found = [by_id[id] for id, _ in run.ranking(str(number), n)]
        rest = (exemplar for exemplar in pool if exemplar not in found)
        chosen.append([*found, *(exemplar for exemplar, _ in zip(rest, range(n - len(found)), strict=False))])
    return chosen


def prompt_of(exemplars: Sequence[Exemplar], question: str) -> str:
    """Exemplars as solved questions, in their order, then the question.

    Solutions have numbered lines, and "#### 42" reads "The answer is 42".
    """
    shown = [_asked(e.question) + "\n" + numbered_solution(e.solution) for e in exemplars]
    return "\n\n".join([*shown, _asked(question)]) + "\n"


def numbered_solution(solution: str) -> str:
    """A solution with numbered steps and its answer in words."""
    lines = [line.strip() for line in plain_solution(solution).splitlines() if line.strip()]
    steps = [line for line in lines if not line.startswith("####")]
    answers = [line.removeprefix("####").strip() for line in lines if line.startswith("####")]
    numbered = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join([*numbered, *(f"The answer is {answer}" for answer in answers)])


def plain_solution(solution: str) -> str:
    """A solution without a calculator's marks, <<6*7=42>>."""
    return _CALCULATOR.sub("", solution)


def final_answer(text: str) -> str | None:
    """The number after "####" or "answer is", else the last number, without thousands' commas; None without any."""
    marked = [first or second for first, second in _MARKED.findall(text)]
    found = marked[-1:] or _NUMBER.findall(text)[-1:]
    return found[0].replace(",", "") if found else None


def accuracy(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Share of outputs whose final answer is that of the reference; an output without one is wrong.

    Raises:
        ValueError: another number of references, or none.
    """
    if len(outputs) != len(references) or not outputs:
        raise ValueError(f"{len(references)} references for {len(outputs)} outputs; one each is needed")
    right = [_same(final_answer(said), final_answer(known)) for said, known in zip(outputs, references, strict=True)]
    return sum(right) / len(right)


def _same(first: str | None, second: str | None) -> bool:
    return first is not None and second is not None and float(first) == float(second)


def _asked(question: str) -> str:
    return f"Question: {question}\nLet's think step by step."


def _kept(places: list[int], scores: list[float], excluded: set[int], k: int) -> tuple[list[int], list[float]]:
    kept = [(place, score) for place, score in zip(places, scores, strict=True) if place not in excluded][:k]
    return [place for place, _ in kept], [score for _, score in kept]
