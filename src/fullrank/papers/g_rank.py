"""G-Rank: Unsupervised Continuous Learn-to-Rank for Edge Devices in a P2P Network (G-Rank)."""

from __future__ import annotations

from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread

PAPER = Paper(
    slug="g-rank",
    title="G-Rank: Unsupervised Continuous Learn-to-Rank for Edge Devices in a P2P Network",
    authors=2,
    published="2023-01-29",
    arxiv="2301.12530",
    position=34,
    repository="https://github.com/awrgold/G-Rank",
    venue="MSc thesis, TU Delft",
    topics=(
        "retrieval",
        "learning to rank",
    ),
    summary=(
        "Search in a peer-to-peer network without any server, labels or training. Each device learns from the "
        "clicks it sees and from neighbours it gossips with, and ranks results from that, also when offline. "
        "Simulations show relevant results at small cost."
    ),
    methods=(
        "fullrank.search.g_rank.GRank",
        "fullrank.search.click_log.ClickLog",
    ),
    usage="""\
from fullrank.search.g_rank import GRank

clicks = [("you", "rock", "c"), ("you", "rock", "c"), ("me", "jazz", "a")]  # who searched for what and chose which
ranker = GRank(isolation=1, node_id="me").fit(clicks)
print(ranker.rank("rock"))
""",
    notes=(
        "The similarity weight F is dead code in the original, so its finding that F matters little is not a "
        "finding. The claims are curves without tables. With similarity active, rankings personalise and "
        "consensus is slow. The targeted and the epic attack aim at one term of 39, so the mean over terms hardly "
        "shows them, while inflation moves all of them; a message holds all rows that the other lacks, however many."
    ),
    claims=(
        Claim(
            id="no-central-data",
            says="Relevant rankings arise without central data, feature engineering or training, also offline.",
            source="abstract",
            unit="distance",
            holds=lambda m: m["end"] < m["start"],
        ),
        Claim(
            id="converges",
            says="The mean distance to the global order falls steeply, for F = 0 and F = 1.",
            source="figure, thesis",
            unit="Spearman rho of distance with time",
            holds=lambda rho: rho <= -0.9,
        ),
        Claim(
            id="top-item-agreed",
            says="The share of queries with the right top item reaches 100 % in all but the epic sybil attack.",
            source="text, thesis",
            paper_value=100.0,
            unit="%",
            needs="10,000 steps at full size; at small scale the share rises and is reported",
        ),
        Claim(
            id="recovers-from-attack",
            says=(
                "After targeted and inflation attacks the distance rises but stays below its start; inflation is worse."
            ),
            source="text, thesis",
            unit="distance",
            holds=lambda m: (
                m["targeted"] < m["start"] and m["inflation"] < m["start"] and m["targeted"] <= m["inflation"]
            ),
        ),
        Claim(
            id="epic-is-worst",
            says="The epic attack (75 % sybils) is clearly worse and levels off.",
            source="text, thesis",
            unit="distance",
            holds=lambda m: m["epic"] > max(m["targeted"], m["inflation"]),
        ),
        Claim(
            id="onset-of-damage",
            says="With F = 0 the damage of an attack begins later than with F = 1.",
            source="text, thesis, though F is dead code there",
            unit="steps",
            holds=lambda m: m["F=0"] >= m["F=1"],
        ),
        Claim(
            id="push-and-pull",
            says="Push converges faster than pull, and is poisoned faster.",
            source="text, thesis",
            unit="distance",
            holds=lambda m: m["push before attack"] < m["pull before attack"] and m["push rise"] > m["pull rise"],
        ),
        Claim(
            id="message-size",
            says="A gossip message grows fast, then slowly, and rarely exceeds 600 kB.",
            source="text, thesis",
            paper_value=600.0,
            unit="kB",
            holds=lambda largest: largest <= 600,
        ),
        Claim(
            id="similarity-matters",
            says=(
                "With F active, F = 1 converges faster than F = 0; the original saw no difference because F was"
                " not used."
            ),
            source="our simulation",
            unit="distance",
            holds=lambda m: m["F=1"] < m["F=0"],
            kind="finding",
        ),
        Claim(
            id="communities-gain",
            says="With two communities of taste, similarity-weighted ranking beats popularity for its own community.",
            source="our simulation",
            unit="share of clicks",
            holds=lambda m: m["G-Rank"] > m["popularity"],
            kind="finding",
        ),
        Claim(
            id="asked-peers-learn-who-asks",
            says=(
                "A peer that learns who asks it finds the whole network; where peers are known through rows alone, "
                "those who came first hear little, and the distance stays far above."
            ),
            source="our simulation",
            unit="distance",
            holds=lambda m: m["asked learn"] < 0.5 * m["rows alone"],
            kind="finding",
        ),
    ),
)

_SCENARIOS = ("baseline", "targeted", "inflation", "epic", "push")


@PAPER.study
def study(trial: Trial) -> None:
    """Networks of peers with and without attackers, for F = 0 and F = 1; two communities of taste."""
    import numpy as np

    nodes = trial.pick(smoke=8, quick=30, full=100)
    steps = trial.pick(smoke=160, quick=1500, full=10_000)
    seeds = trial.seeds if trial.scale != "smoke" else trial.seeds[:1]
    every = steps // 20
    plan = [(scenario, F, seed) for seed in seeds for scenario in _SCENARIOS for F in (0, 1)]
    curves: dict[tuple[str, int], list[list[list[float]]]] = {}
    for scenario, F, seed in trial.track(plan, "networks"):
        key = f"{scenario} F={F} nodes={nodes} steps={steps} seed={seed}"
        found = trial.step(key, partial(_network, scenario, F, nodes, steps, every, seed))
        curves.setdefault((scenario, F), []).append(found)
    at = {name: place for place, name in enumerate(_COLUMNS)}

    def values(scenario: str, F: int, column: str = "distance") -> Any:
        """(seeds, snapshots)."""
        return np.array([[row[at[column]] for row in run] for run in curves[scenario, F]])

    def last(scenario: str, F: int) -> list[float]:
        return values(scenario, F)[:, -1].tolist()

    strike = (
        values("targeted", 1, "step")[0]
        .tolist()
        .index(max(s for s in values("targeted", 1, "step")[0] if s < steps // 2))
    )
    start = values("baseline", 1)[:, 0].tolist()
    trial.measure("no-central-data", *mean_and_spread({"start": start, "end": last("baseline", 1)}))
    trial.measure("converges", max(_falls(values("baseline", F)) for F in (0, 1)))
    trial.measure(
        "recovers-from-attack",
        *mean_and_spread({"start": start} | {name: last(name, 1) for name in ("targeted", "inflation")}),
    )
    trial.measure(
        "epic-is-worst", *mean_and_spread({name: last(name, 1) for name in ("targeted", "inflation", "epic")})
    )
    trial.measure(
        "onset-of-damage",
        {f"F={F}": _onset(values("inflation", F), values("inflation", F, "step"), strike) for F in (0, 1)},
    )
    before = {name: values(scenario, 1)[:, strike] for name, scenario in (("push", "push"), ("pull", "targeted"))}
    rise = {name: values(scenario, 1)[:, strike:].max(1) - before[name]
            for name, scenario in (("push", "push"), ("pull", "targeted"))}  # fmt: skip
    trial.measure(
        "push-and-pull",
        *mean_and_spread(
            {f"{name} before attack": before[name].tolist() for name in before}
            | {f"{name} rise": rise[name].tolist() for name in rise}
        ),
    )
    trial.measure("message-size", float(values("baseline", 1, "message kB")[:, -1].max()))
    trial.measure("similarity-matters", {f"F={F}": float(values("baseline", F).mean()) for F in (0, 1)})
    trial.measure("communities-gain", *mean_and_spread(_communities(trial, seeds)))
    alone = [
        trial.step(f"rows alone {nodes} {steps} seed={seed}", partial(_rows_alone, nodes, steps, every, seed))
        for seed in seeds
    ]
    trial.measure(
        "asked-peers-learn-who-asks", *mean_and_spread({"asked learn": last("baseline", 1), "rows alone": alone})
    )
    rows = []
    for (scenario, F), runs in curves.items():
        ends = [dict(zip(_COLUMNS, run[-1], strict=True)) for run in runs]
        rows.append(
            {"scenario": scenario, "F": F}
            | {name: float(np.mean([end[name] for end in ends])) for name in _COLUMNS if name != "step"}
        )
    trial.table("networks", rows)
    _plot(trial, curves, at)


_COLUMNS = ("step", "distance", "ranked distance", "top share", "rows", "message kB")


def _network(scenario: Any, F: int, nodes: int, steps: int, every: int, seed: int) -> list[list[float]]:
    from fullrank.search.peer_simulation import P2PSimulation, synthetic_catalogue

    simulation = P2PSimulation(nodes, synthetic_catalogue(seed=seed), scenario, F, steps, seed)
    return [list(map(float, snapshot)) for snapshot in simulation.run(every)]


def _rows_alone(nodes: int, steps: int, every: int, seed: int) -> float:
    """The last distance where a peer that is asked does not learn who asks."""
    from fullrank.search.gossip import GossipPeer
    from fullrank.search.peer_simulation import P2PSimulation, synthetic_catalogue

    class Deaf(GossipPeer):
        def pull(self, other: GossipPeer, most: int | None = None) -> int:
            known = dict(other.progress)
            new = super().pull(other, most)
            other.progress = known
            return new

    simulation = P2PSimulation(nodes, synthetic_catalogue(seed=seed), "baseline", 1, steps, seed)
    for peer in simulation.peers.values():
        peer.__class__ = Deaf
    return simulation.run(every)[-1].distance


def _falls(distances: Any) -> float:
    """Spearman's correlation of the mean distance with time."""
    from scipy import stats

    mean = distances.mean(0)
    found: Any = stats.spearmanr(range(len(mean)), mean)
    return float(found[0])


def _onset(distances: Any, steps: Any, strike: int) -> float:
    """Steps from the attack until the mean distance is above what it was by a twentieth of its start."""
    mean = distances.mean(0)
    limit = mean[strike] + mean[0] / 20
    after = [step for step, value in zip(steps[0][strike + 1 :], mean[strike + 1 :], strict=True) if value > limit]
    return float((after[0] if after else 2 * steps[0][-1]) - steps[0][strike])


def _communities(trial: Trial, seeds: Any) -> dict[str, list[float]]:
    """Two communities of which the smaller one's taste drowns in counts: the share of queries that find a favourite."""
    import numpy as np

    from fullrank.search.g_rank import GRank

    tags, found = 12, {"G-Rank": [], "popularity": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        community = [0] * 14 + [1] * 6
        rows = [
            (node, tag, 100 * community[node] + tag if rng.random() < 0.8 else 1000 + int(rng.integers(50)))
            for node in range(len(community))
            for tag in rng.integers(0, tags, 40).tolist()
        ]
        hits = dict.fromkeys(found, 0)
        for node, taste in enumerate(community):
            rankers = {
                "G-Rank": GRank(isolation=0, node_id=node).fit(rows),
                "popularity": GRank(isolation=1e9, node_id=node).fit(rows),
            }
            for name, ranker in rankers.items():
                hits[name] += sum(ranker.rank(tag, 1)[0] == [100 * taste + tag] for tag in range(tags))
        for name, count in hits.items():
            found[name].append(count / (tags * len(community)))
    return found


def _plot(trial: Trial, curves: Any, at: dict[str, int]) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure((9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for column, axes in zip(("distance", "top share"), panels, strict=True):
        for (scenario, F), runs in curves.items():
            steps = [row[at["step"]] for row in runs[0]]
            mean = np.mean([[row[at[column]] for row in run] for run in runs], axis=0)
            axes.plot(steps, mean, label=f"{scenario}, F = {F}", linestyle="-" if F else "--",
                      color=f"C{_SCENARIOS.index(scenario)}")  # fmt: skip
        axes.set(xlabel="step", ylabel=column)
    panels[-1].legend(fontsize="x-small", ncols=2)
    trial.figure("convergence", figure)
