"""Unbiased learning to rank: objectives beside a plain softmax loss, the simulator, the reader of sessions.

A step is the loss of [lists, 10] clicks and its backward pass. The softmax loss beside it is the shortest that can be
written, without checks, masks or weights; "with the scorer" adds the default scorer of 300 features to both sides.
Targets: at most 5% more than the plain loss beside the scorer; pairs at least 20 times as fast as the published
loop over positions; 1,000,000 simulated lists in a second; 100 MB of decoded text read in a second.

    python benchmarks/unbiased.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from _timing import alternate, seconds, show, timed
from fullrank.order import (
    Objective,
    Session,
    ShownDocument,
    TokenText,
    make_objective,
    read_baidu_sessions,
    simulate_clicks,
    write_baidu_sessions,
)
from fullrank.order.ultr_ranker import make_scorer

LISTS, RANKS, FEATURES = 1024, 10, 300
OBJECTIVES = ("naive", "ips", "dla", "rem", "two-tower", "pairdebias", "unbiased-lambdarank")
Loss = Callable[[Tensor, Tensor], Tensor]


def plain(scores: Tensor, clicks: Tensor) -> Tensor:
    return -(clicks * scores.log_softmax(-1)).sum() / clicks.sum()


def published_pairs(scores: Tensor, clicks: Tensor) -> Tensor:
    """PairDebias as the authors' code: their weights of [lists, 1] make a square of lists of every pair's losses."""
    return looped_pairs(scores, clicks, torch.ones(len(scores), 1))


def looped_pairs(scores: Tensor, clicks: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """PairDebias with one pair of positions after another: the loss, and what moves t+ and t-."""
    t_plus, t_minus = torch.ones(RANKS), torch.ones(RANKS)
    loss, plus, minus = torch.zeros(()), torch.zeros(RANKS), torch.zeros(RANKS)
    for i in range(RANKS):
        for j in range(RANKS):
            if i != j:
                losses = functional.softplus(scores[:, j] - scores[:, i]) * clicks[:, i] * (1 - clicks[:, j])
                pair = (losses * weights).sum()
                loss = loss + pair / (t_plus[i] * t_minus[j])
                plus[i] += pair.detach() / t_minus[j]
                minus[j] += pair.detach() / t_plus[i]
    for t, losses in ((t_plus, plus), (t_minus, minus)):
        t.mul_(0.95).add_(0.05 * (losses / losses[0]).sqrt())
    return loss / len(scores)


def steps(loss: Loss, features: Tensor, clicks: Tensor, scorer: torch.nn.Module | None) -> None:
    for _ in range(20 if scorer is None else 1):
        step(loss, features, clicks, scorer)


def step(loss: Loss, features: Tensor, clicks: Tensor, scorer: torch.nn.Module | None) -> None:
    if scorer is None:
        scores = features[..., 0].clone().requires_grad_()
        loss(scores, clicks).backward()
        return
    scorer.zero_grad()
    loss(scorer(features).squeeze(-1), clicks).backward()


def objective(name: str) -> Objective:
    return make_objective(name, RANKS, np.linspace(1, 0.1, RANKS) if name == "ips" else None).train()


def objectives(scorer: torch.nn.Module | None, pairs: int) -> list[list[str]]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(LISTS, RANKS, FEATURES, generator=generator)
    clicks = (torch.rand(LISTS, RANKS, generator=generator) < 0.2).float()
    rows = []
    for name in OBJECTIVES:
        made = objective(name)
        times = alternate(
            lambda made=made: steps(made, features, clicks, scorer),
            lambda: steps(plain, features, clicks, scorer),
            pairs,
        )
        rows.append([name, *times.cells()])
    return rows


def pair_loops() -> list[list[str]]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(LISTS, RANKS, 1, generator=generator)
    clicks = (torch.rand(LISTS, RANKS, generator=generator) < 0.2).float()
    made = objective("pairdebias")
    rows = []
    for name, peer in (("the published loop", published_pairs), ("a loop without its squares", looped_pairs)):
        times = alternate(
            lambda: step(made, features, clicks, None), lambda peer=peer: step(peer, features, clicks, None), 15
        )
        rows.append([name, *times.cells()])
    return rows


def sessions(count: int) -> list[Session]:
    rng = np.random.default_rng(0)

    def text(tokens: int) -> TokenText:
        return TokenText.of(rng.integers(0, 22_000, tokens).tolist())

    return [
        Session(
            str(number),
            text(5),
            TokenText(),
            tuple(
                ShownDocument(
                    position, f"{number:032x}", text(15), text(60), 1, int(position == 2), 0, 100.5, 3.25, 1.5
                )
                for position in range(1, 11)
            ),
        )
        for number in range(count)
    ]


def reading(folder: Path) -> list[list[str]]:
    log = sessions(5000)
    text = write_baidu_sessions(folder / "part.tsv", log)
    packed = write_baidu_sessions(folder / "part.gz", log)
    megabytes = text.stat().st_size / 1e6
    rows = []
    for path in (text, packed):
        taken = min(timed(lambda path=path: sum(1 for _ in read_baidu_sessions(path))) for _ in range(5))
        rows.append([path.suffix, f"{megabytes:.1f} MB", seconds(taken), f"{megabytes / taken:.0f} MB/s"])
    return rows


def simulating() -> list[list[str]]:
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, (1_000_000, RANKS))
    return [
        [behaviour, seconds(min(timed(lambda b=behaviour: simulate_clicks(grades, b, rng=rng)) for _ in range(3)))]
        for behaviour in ("pbm", "cascade", "ubm")
    ]


def main() -> None:
    torch.set_num_threads(1)
    columns = ["", "ours", "peer", "faster", "min-max"]
    show(
        f"a step of [{LISTS}, {RANKS}] beside a plain softmax loss, the loss alone, 20 steps",
        columns,
        objectives(None, 5),
    )
    scorer = make_scorer("mlp", FEATURES)
    show("the same with the scorer (target: at least 0.95x)", columns, objectives(scorer, 5))
    show("pairdebias, one step, beside (target: at least 20x the published loop)", columns, pair_loops())
    show("1,000,000 lists of ten simulated (target: under 1 s)", ["", "time"], simulating())
    with tempfile.TemporaryDirectory() as folder:
        columns = ["", "decoded text", "time", "throughput"]
        show("sessions read (target: at least 100 MB/s)", columns, reading(Path(folder)))


if __name__ == "__main__":
    main()
