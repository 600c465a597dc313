"""SESA against what it is made of and against plain loops.

Encoding: LSTM, pool and concept head over ragged texts, against a bare `nn.LSTM` and a linear map of equal size over
the same padded batch; target: at least 0.9 of its speed. Explaining: scores with the ten largest contributions of every
pair, against the scores alone; target: under 10 % more. Matching: 1,000 queries against 100,000 candidates in 35
concepts, the ten best of each, against one matrix product with `topk` over all; target: under 1 s. Concepts: loss and
gradient of 35,000 concepts from 10 listed ones and 5 others for each, against the whole table.

    python benchmarks/sesa.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from _timing import alternate, show
from fullrank.search import SESA
from fullrank.search.concept_head import ConceptHead
from fullrank.search.dense import nearest
from fullrank.search.sesa_losses import concept_loss, sampled_concept_loss

VOCABULARY, TEXTS, WORDS, CONCEPTS, MANY = 20_000, 64, 120, 35, 35_000


class Bare(nn.Module):
    """A bidirectional LSTM and a linear map of its mean state, padding and all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 128, padding_idx=0)
        self.rnn = nn.LSTM(128, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, CONCEPTS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Of token ids."""
        return self.head(self.rnn(self.embedding(tokens))[0].mean(1))


def texts(shortest: int) -> Tensor:
    tokens = torch.randint(1, VOCABULARY, (TEXTS, WORDS))
    lengths = torch.randint(shortest, WORDS + 1, (TEXTS, 1))
    return tokens * (torch.arange(WORDS) < lengths)


def quiet(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return call()

    return run


def encoding() -> list[list[str]]:
    model = SESA(VOCABULARY, [str(number) for number in range(CONCEPTS)]).eval()
    bare = Bare().eval()
    rows = []
    for name, shortest in (("encode, all of 120 words", WORDS), ("encode, 10 to 120 words", 10)):
        tokens = texts(shortest)
        times = alternate(quiet(lambda t=tokens: model.encode(t)), quiet(lambda t=tokens: bare(t)), 9)
        rows.append([name, *times.cells(), "bare LSTM + linear"])
    a, b = texts(10), texts(10)
    times = alternate(quiet(lambda: model.explain(a, b)), quiet(lambda: model(a, b)), 9)
    return [*rows, ["explain 64 pairs", *times.cells(), "their scores alone"]]


def matching() -> list[str]:
    queries, candidates = (nn.functional.normalize(torch.randn(count, CONCEPTS), dim=1) for count in (1_000, 100_000))
    times = alternate(
        quiet(lambda: nearest(queries, candidates, 10)), quiet(lambda: (queries @ candidates.mT).topk(10)), 5
    )
    return ["1,000 x 100,000, 10 best", *times.cells(), "matmul + topk of all"]


def concepts() -> list[str]:
    head = ConceptHead(256, MANY, "factorized", 64)
    hidden = torch.randn(TEXTS, 256)
    listed = [torch.randperm(MANY)[:10].tolist() for _ in range(TEXTS)]

    def sampled() -> None:
        sampled_concept_loss(head, hidden, listed).backward()

    def whole() -> None:
        targets = torch.zeros(TEXTS, MANY)
        for row, numbers in enumerate(listed):
            targets[row, numbers] = 1
        concept_loss(head(hidden), targets).backward()

    return ["loss of 35,000 concepts", *alternate(sampled, whole, 9).cells(), "whole table"]


def main() -> None:
    torch.manual_seed(0)
    rows = [*encoding(), matching(), concepts()]
    show("SESA", ["what", "ours", "peer", "times faster", "spread", "peer is"], rows)


if __name__ == "__main__":
    main()
