"""A Large Scale Search Dataset for Unbiased Learning to Rank (Baidu-ULTR, unbiased learning to rank)."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread

_DATA = "the Baidu-ULTR sessions, which are not downloadable at present"

PAPER = Paper(
    slug="baidu-ultr",
    title="A Large Scale Search Dataset for Unbiased Learning to Rank",
    authors=7,
    published="2022-07-06",
    arxiv="2207.03051",
    position=18,
    repository="https://github.com/ChuXiaokai/baidu_ultr_dataset",
    venue="NeurIPS 2022, Datasets and Benchmarks",
    topics=(
        "learning to rank",
        "retrieval",
    ),
    summary=(
        "A very large click log for unbiased learning to rank: 1.2 billion search sessions with text, "
        "positions, display features and user actions, plus 7,008 queries judged by experts. A pretrained "
        "language model is supplied as baseline. Debiasing methods that shine on synthetic clicks gain little "
        "here."
    ),
    methods=(
        "fullrank.order.ULTRRanker",
        "fullrank.order.LightGBMRanker",
        "fullrank.order.TextRanker",
        "fullrank.order.DLA",
        "fullrank.order.IPS",
        "fullrank.order.simulate_clicks",
        "fullrank.order.estimate_propensities",
        "fullrank.order.PBM",
        "fullrank.order.UBM",
        "fullrank.order.Cascade",
        "fullrank.order.DCM",
        "fullrank.order.DBN",
        "fullrank.order.PDGD",
        "fullrank.order.read_baidu_sessions",
        "fullrank.order.benchmark_table",
    ),
    usage="""\
import numpy as np
from fullrank.order import ULTRRanker

rng = np.random.default_rng(0)
X, clicks = rng.normal(size=(600, 5)), rng.random(600) < 0.2  # a row a document, in the order that was shown
qid = np.repeat(np.arange(60), 10)
ranker = ULTRRanker("dla", epochs=5).fit(X, clicks, qid)      # or "naive", "ips", "rem", "pairdebias", "two-tower"
print(ranker.predict(X[:10]))
""",
    notes=(
        "The official code shuffles documents across queries in its listwise losses, which explains its near-"
        "equal numbers; the switch reproduces it. The independent reproduction finds that unbiased methods "
        "predict clicks better but do not rank consistently better, and that the choice of loss matters more."
    ),
    claims=(
        Claim(
            id="size",
            says="1.2 billion sessions, 7,008 annotated queries, 397,572 judged pairs.",
            source="abstract of version 3",
            paper_value={"sessions": 1200000000.0, "queries": 7008, "pairs": 397572},
            needs=_DATA,
        ),
        Claim(
            id="expert-dcg",
            says="On expert labels DLA is best by a little: DCG@10 6.236 against naive 6.170, IPW 6.194, REM 6.177.",
            source="recalled",
            paper_value={"naive": 6.17, "IPW": 6.194, "REM": 6.177, "DLA": 6.236},
            unit="DCG@10",
            needs=_DATA,
            confirmed=False,
        ),
        Claim(
            id="reproduction-pointwise-dcg",
            says="Reproduction with BERT, pointwise, DCG@10: naive 7.251, two towers 7.456, IPS 6.296.",
            source="README of the independent reproduction",
            paper_value={"naive": 7.251, "two towers": 7.456, "IPS": 6.296},
            unit="DCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-pointwise-ndcg",
            says="The same in nDCG@10: naive 0.357, two towers 0.367, IPS 0.307.",
            source="README of the independent reproduction",
            paper_value={"naive": 0.357, "two towers": 0.367, "IPS": 0.307},
            unit="nDCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-clicks",
            says="The same in click log-likelihood: naive 0.227, two towers 0.218, IPS 0.222.",
            source="README of the independent reproduction",
            paper_value={"naive": 0.227, "two towers": 0.218, "IPS": 0.222},
            unit="nats",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-listwise",
            says=(
                "Reproduction, listwise, DCG@10 (nDCG@10): naive 8.478 (0.405), IPS 7.450 (0.361), DLA 7.802 (0.377)."
            ),
            source="README of the independent reproduction",
            paper_value={
                "naive": 8.478,
                "IPS": 7.45,
                "DLA": 7.802,
                "naive nDCG": 0.405,
                "IPS nDCG": 0.361,
                "DLA nDCG": 0.377,
            },
            unit="DCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-top-1",
            says="DCG@1, listwise: naive 1.947, DLA 1.796, IPS 1.671.",
            source="README of the independent reproduction",
            paper_value={"naive": 1.947, "DLA": 1.796, "IPS": 1.671},
            unit="DCG@1",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-conclusion",
            says=(
                "Unbiased methods improve click prediction robustly and ranking not consistently; listwise "
                "against pointwise loss matters more."
            ),
            source="abstract of arXiv 2404.02543",
            needs=_DATA,
        ),
        Claim(
            id="simulated-yahoo",
            says="On simulated clicks over Yahoo data DLA reaches nDCG@10 of about 0.756.",
            source="issue 11 of ULTRA_pytorch",
            paper_value=0.756,
            unit="nDCG@10",
            needs="the Yahoo learning-to-rank set, which is not free",
        ),
        Claim(
            id="correction-helps",
            says=(
                "On simulated position-biased clicks unbiased learning ranks better than naive learning, and "
                "both better than the production ranker."
            ),
            source="premise of the field",
            unit="nDCG@10",
            holds=lambda m: m["production"] < m["naive"] < m["DLA"] and m["DLA"] - m["naive"] > 0.015,
        ),
        Claim(
            id="propensities-recovered",
            says="DLA recovers the order of the true examination propensities.",
            source="premise of DLA",
            unit="Spearman rho",
            holds=lambda rho: rho > 0.9,
        ),
        Claim(
            id="ips-is-unbiased",
            says=(
                "In expectation over clicks the inverse-propensity loss equals the loss on full information; "
                "the naive loss does not."
            ),
            source="theorem",
            unit="largest difference",
            holds=lambda m: m["IPS"] < 1e-10 < m["naive"],
        ),
        Claim(
            id="shuffled-documents",
            says=(
                "With documents shuffled across queries, as in the official code, every method falls to the "
                "naive level or below (at most 0.01 above it)."
            ),
            source="our simulation",
            unit="nDCG@10",
            holds=lambda m: m["best shuffled"] <= m["naive"] + 0.01,
            kind="finding",
        ),
        Claim(
            id="no-bias-no-gain",
            says="Without position bias no correction gains more than 0.01 over naive learning.",
            source="our simulation",
            unit="nDCG@10",
            holds=lambda m: m["naive"] >= m["best corrected"] - 0.01,
            kind="finding",
        ),
        Claim(
            id="true-propensities-are-the-limit",
            says="DLA, which learns the propensities, comes within 0.02 of weighting by the true ones.",
            source="premise of DLA",
            unit="nDCG@10",
            holds=lambda m: m["DLA"] >= m["IPS"] - 0.02,
        ),
        Claim(
            id="other-clicks-other-gains",
            says="Correction by position helps less where users click as a cascade or by distance than by position.",
            source="our simulation",
            unit="gain in nDCG@10",
            holds=lambda m: m["PBM"] > max(m["cascade"], m["UBM"]),
            kind="finding",
        ),
    ),
)

_METHODS = ("naive", "pairdebias", "two-tower", "rem", "dla", "ips")


@PAPER.study
def study(trial: Trial) -> None:
    """Simulated clicks on the lambdarank sample; documents shuffled across queries; other users; exact expectations."""
    import numpy as np

    sessions = trial.pick(smoke=3_000, quick=300_000, full=1_000_000)
    seeds = trial.seeds if trial.scale != "smoke" else trial.seeds[:1]
    found: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    plan = [("pbm", 1.0, method, False) for method in _METHODS]
    plan += [("pbm", 1.0, method, True) for method in ("naive", "dla", "ips")]
    plan += [("pbm", 0.0, method, False) for method in ("naive", "dla", "rem")]
    plan += [(users, 1.0, method, False) for users in ("cascade", "ubm") for method in ("naive", "dla")]
    with trial.one_thread():
        for (users, eta, method, shuffled), seed in trial.track(list(itertools.product(plan, seeds)), "click models"):
            key = f"{users} eta={eta} {method} shuffled={shuffled} sessions={sessions} seed={seed}"
            run = partial(_trained, users, eta, method, shuffled, sessions, seed)
            found.setdefault((f"{users} {eta:g}", method, shuffled), []).append(trial.step(key, run))

    def values(method: str, users: str = "pbm 1", shuffled: bool = False) -> list[float]:
        return [run["nDCG@10"] for run in found[users, method, shuffled]]

    production = [run["production"] for run in found["pbm 1", "naive", False]]
    trial.measure(
        "correction-helps",
        *mean_and_spread({"production": production, "naive": values("naive"), "DLA": values("dla")}),
    )
    trial.measure("true-propensities-are-the-limit", *mean_and_spread({"DLA": values("dla"), "IPS": values("ips")}))
    learned = np.mean([run["propensities"] for run in found["pbm 1", "dla", False]], axis=0)
    trial.measure("propensities-recovered", _spearman(learned, _true_propensities(len(learned))))
    trial.measure("ips-is-unbiased", _largest_differences())
    shuffled = {method: float(np.mean(values(method, shuffled=True))) for method in ("naive", "dla", "ips")}
    trial.measure(
        "shuffled-documents", {"naive": float(np.mean(values("naive"))), "best shuffled": max(shuffled.values())}
    )
    unbiased = {method: float(np.mean(values(method, "pbm 0"))) for method in ("naive", "dla", "rem")}
    trial.measure(
        "no-bias-no-gain",
        {"naive": unbiased["naive"], "best corrected": max(unbiased["dla"], unbiased["rem"])},
    )
    gains = {
        name: float(np.mean(values("dla", users)) - np.mean(values("naive", users)))
        for name, users in (("PBM", "pbm 1"), ("cascade", "cascade 1"), ("UBM", "ubm 1"))
    }
    trial.measure("other-clicks-other-gains", gains)
    trial.table(
        "methods",
        [
            {
                "users": users,
                "method": method,
                "documents shuffled": shuffled_,
                "nDCG@10": float(np.mean([run["nDCG@10"] for run in runs])),
                "spread": float(np.std([run["nDCG@10"] for run in runs])),
            }
            for (users, method, shuffled_), runs in found.items()
        ],
    )
    truth = _true_propensities(len(learned))
    trial.table(
        "propensities",
        [
            {"position": place + 1, "true": float(truth[place]), "DLA": float(learned[place])}
            for place in range(len(learned))
        ],
    )
    _curve(trial, seeds, sessions)


def _lists(split: str) -> Any:
    from fullrank import data
    from fullrank.order.svmlight import load_svmlight

    return load_svmlight(data.load("lambdarank", split)[0]["text"].splitlines(), 300)


def _trained(users: Any, eta: float, method: str, shuffled: bool, sessions: int, seed: int) -> dict[str, Any]:
    """Lists of a weak production ranker, clicks on their first ten, a linear ranker trained on them."""
    import numpy as np

    from fullrank.order import ClickSimulator
    from fullrank.order.ultr_ranker import ULTRRanker

    train, test = _lists("train"), _lists("test")
    features, grades, mask = train.lists()
    rng = np.random.default_rng(seed)
    production = _production(features, grades, mask, seed)
    scores = np.where(mask, features @ production, -np.inf)
    shown = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    rows = np.arange(len(shown))[:, None]
    x, g, m = features[rows, shown], grades[rows, shown], mask[rows, shown]
    simulator = ClickSimulator(users, eta)
    query = rng.integers(len(x), size=sessions)
    clicks = (simulator.simulate(np.where(m[query], g[query], 0), rng).clicks * m[query]).astype(np.float32)
    place = np.broadcast_to(np.arange(x.shape[1]), (sessions, x.shape[1])).copy()
    owner = np.broadcast_to(query[:, None], place.shape).copy()
    present = m[query]
    if shuffled:  # documents lose their lists, as in the published buffer
        order = rng.permutation(sessions * x.shape[1])
        owner, place = owner.ravel()[order].reshape(place.shape), place.ravel()[order].reshape(place.shape)
        clicks = clicks.ravel()[order].reshape(place.shape)
        present = present.ravel()[order].reshape(place.shape)
    propensities: Any = simulator.propensities(10) if users == "pbm" else None
    ranker: Any = ULTRRanker(method, propensities=None if method != "ips" else propensities, lr=_rate(method),
                             random_state=seed)  # fmt: skip
    import torch

    def batch(rows: Any) -> Any:
        at = rows.numpy()
        return (
            torch.from_numpy(x[owner[at], place[at]]),
            torch.from_numpy(clicks[at]),
            torch.from_numpy(present[at]),
        )

    ranker.fit_batches(x.shape[-1], sessions, batch)
    learned = ranker.objective_.propensities().tolist() if method == "dla" else None
    return {
        "nDCG@10": ranker.score(test.features, test.grades, test.qid),
        "production": _measured(test, test.features @ production),
        "propensities": learned,
    }


def _rate(method: str) -> float:
    return 0.005 if method == "pairdebias" else 0.05


def _production(features: Any, grades: Any, mask: Any, seed: int) -> Any:
    """Weights of a linear ranker that has seen the grades of two queries."""
    import numpy as np
    import torch

    from fullrank.order.ultr_losses import softmax_loss

    rng = np.random.default_rng(1_000 + seed)
    rows = rng.choice(len(features), 2, replace=False)
    x, g, m = (torch.from_numpy(part[rows]) for part in (features, grades, mask))
    w = torch.zeros(x.shape[-1], requires_grad=True)
    optimizer = torch.optim.Adagrad([w], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        softmax_loss(x @ w, (2.0**g - 1) * m, mask=m).backward()
        optimizer.step()
    return w.detach().numpy()


def _measured(test: Any, scores: Any) -> float:
    import numpy as np

    from fullrank.order import ndcg
    from fullrank.order.ultr_ranker import places_within

    _, grades, mask = test.lists()
    padded = np.zeros(mask.shape)
    padded[test.qid, places_within(test.qid)] = scores
    return float(np.nanmean(ndcg(padded, grades, 10, mask=mask)))


def _true_propensities(count: int) -> Any:
    from fullrank.order import ClickSimulator

    examination = ClickSimulator().propensities(count)
    return examination / examination[0]


def _spearman(first: Any, second: Any) -> float:
    from scipy import stats

    found: Any = stats.spearmanr(first, second)
    return float(found[0])


def _largest_differences() -> dict[str, float]:
    """Expected losses over all click patterns of six documents less the losses on full information, over five draws."""
    import torch
    from torch.nn.functional import logsigmoid

    from fullrank.order.ultr_losses import ips_pointwise

    largest = {"IPS": 0.0, "naive": 0.0}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        s, e, a = (torch.rand(6, generator=generator, dtype=torch.float64) * 0.8 + 0.1 for _ in range(3))
        s = 4 * s
        logs = s.log_softmax(-1)
        full = {"list": -(a * logs).sum(), "point": -(a * logsigmoid(s) + (1 - a) * logsigmoid(-s)).sum()}
        expected = {"IPS list": 0.0, "IPS point": 0.0, "naive list": 0.0}
        for pattern in itertools.product((0.0, 1.0), repeat=6):
            c = torch.tensor(pattern, dtype=torch.float64)
            p = torch.where(c > 0, e * a, 1 - e * a).prod()
            expected["IPS list"] += float(p * -(c / e * logs).sum())
            expected["IPS point"] += float(p * ips_pointwise(s[None], c[None], (1 / e)[None]))
            expected["naive list"] += float(p * -(c * logs).sum())
        for name, value in expected.items():
            kind, form = name.split()
            largest[kind] = max(largest[kind], abs(value - float(full[form])))
    return largest


def _curve(trial: Trial, seeds: Any, sessions: int) -> None:
    """nDCG@10 by the number of sessions."""
    import numpy as np
    from matplotlib.figure import Figure

    counts = [sessions // 9, sessions // 3, sessions]
    figure = Figure((6, 3.4), layout="constrained")
    axes = figure.subplots()
    for method in ("naive", "dla", "ips"):
        means = []
        for count in counts:
            key = f"pbm eta=1.0 {method} shuffled=False sessions={count}"
            runs = [
                trial.step(f"{key} seed={seed}", partial(_trained, "pbm", 1.0, method, False, count, seed))
                for seed in seeds
            ]
            means.append(np.mean([run["nDCG@10"] for run in runs]))
        axes.plot(counts, means, marker="o", label=method)
    axes.set(xscale="log", xlabel="sessions", ylabel="nDCG@10")
    axes.legend()
    trial.figure("learning-curve", figure)
