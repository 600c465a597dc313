"""G-Rank: Unsupervised Continuous Learn-to-Rank for Edge Devices in a P2P Network (G-Rank)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._g_rank_tastes import Size, measure_communities, measure_robustness
from fullrank.papers._repeats import mean_and_spread

if TYPE_CHECKING:
    import numpy as np

    from fullrank.search.peer_simulation import Snapshot

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
        "fullrank.search.GRank",
        "fullrank.search.ClickLog",
        "fullrank.search.GossipPeer",
        "fullrank.search.P2PSimulation",
        "fullrank.search.NetworkPeer",
        "fullrank.search.PeerStore",
        "fullrank.search.ProcessNetwork",
    ),
    usage="""\
from fullrank.search import GossipPeer, GRank

me, you = (GossipPeer(GRank(isolation=1, node_id=name)) for name in ("me", "you"))
me.click("jazz", "Blue Train")                           # who searched what, and chose which
you.click("jazz", "Kind of Blue")
you.click("rock", "Rumours")
print(me.pull(you))                                      # rows, new ones, refused ones
print(me.search("rock"))                                 # also offline, from all that was heard
print(me.ranker.explain("jazz", "Kind of Blue"))         # who contributes what
""",
    extra="search",
    notes=(
        "The isolation constant F is dead code in the original, so its finding that F matters little is no finding; "
        'its code squares the shared terms where the paper squares the shared clicks (`variant="code"`). The claims '
        "are curves without tables. Distances are measured as there, between orders by plain counts, and between the "
        "weighted rankings that users see. A peer that speaks becomes known; with discovery through rows alone, as "
        "written, newcomers stay unknown. Attackers join at a quarter of the steps and attack at half."
    ),
    claims=(
        Claim(
            id="no-central-data",
            says=(
                "Relevant rankings arise without central data, feature engineering or training, also offline: the "
                "distance to the global order falls to a tenth or less."
            ),
            source="abstract",
            unit="distance",
            holds=lambda m: max(m["end"], m["end, over TCP with churn"]) <= 0.1 * m["start"],
        ),
        Claim(
            id="converges",
            says="The mean distance to the global order falls steeply, for F = 0 and F = 1: by half at least.",
            source="figure, thesis",
            unit="Spearman rho of distance with time; share of the start",
            holds=lambda m: m["rho"] <= -0.9 and m["left at the end"] <= 0.5,
        ),
        Claim(
            id="top-item-agreed",
            says="The share of queries with the right top item reaches 100 % in all but the epic sybil attack.",
            source="text, thesis",
            paper_value=100.0,
            unit="%, median over terms",
            holds=lambda m: all(share >= 99.5 for scenario, share in m.items() if scenario != "epic"),
        ),
        Claim(
            id="recovers-from-attack",
            says=(
                "After targeted and inflation attacks the distance rises but stays below its start; inflation is worse."
            ),
            source="text, thesis",
            unit="distance",
            holds=lambda m: (
                min(m["targeted rise"], m["inflation rise"]) > m["start"] / 20  # as `_onset` sees damage
                and m["targeted peak"] < m["inflation peak"] < m["start"]
            ),
        ),
        Claim(
            id="epic-is-worst",
            says=(
                "The epic attack (75 % sybils) is clearly worse, by a quarter at least, and levels off: the second "
                "half of the attack moves the distance by a quarter of what the first half did at most."
            ),
            source="text, thesis",
            unit="distance",
            holds=lambda m: (
                m["epic"] >= 1.25 * max(m["targeted"], m["inflation"])
                and abs(m["epic"] - m["epic half-way"]) <= 0.25 * (m["epic half-way"] - m["epic before"])
            ),
        ),
        Claim(
            id="onset-of-damage",
            says="With F = 0 the damage of an attack begins later than with F = 1, by a quarter at least.",
            source="text, thesis, though F is dead code there",
            unit="steps",
            holds=lambda m: m["F=0"] >= 1.25 * m["F=1"],  # means of runs that differ by half and more
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
            unit="kB; % of messages",
            holds=lambda m: m["% above 600 kB"] <= 5,
        ),
        Claim(
            id="packed-messages",
            says="The same messages, as columns of whole numbers, never exceed 600 kB.",
            source="our simulation",
            unit="kB",
            holds=lambda largest: largest <= 600,
            kind="finding",
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
            unit="share of queries that begin with the favourite of the community",
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
        Claim(
            id="similarity-shields",
            says="The epic attack moves the rankings less where only alike peers count (F = 0) than with F = 1.",
            source="our simulation",
            unit="rise of the distance of rankings",
            holds=lambda m: m["F=0"] < m["F=1"],
            kind="finding",
        ),
        Claim(
            id="strangers-need-more-clicks",
            says="Who attacks without resembling the victim needs more clicks to move its top item where F = 0.",
            source="our simulation",
            unit="share of attackers' clicks among all under the term",
            holds=lambda m: m["F=0"] > m["F=1"],
            kind="finding",
        ),
        Claim(
            id="mimics-need-few-clicks",
            says=(
                "Who first copies the victim's clicks, which gossip shows to everybody, needs fewer with F = 0 than "
                "with F = 1: similarity is no identity."
            ),
            source="our simulation",
            unit="share of attackers' clicks among all under the term",
            holds=lambda m: m["F=0"] < m["F=1"],
            kind="finding",
        ),
    ),
)


_SCENARIOS = ("baseline", "targeted", "inflation", "epic", "pull", "push")
_ATTACKS = ("targeted", "inflation", "epic")
_TCP = "over TCP with churn"
_SIZES = {"mean kB": "message_kb", "largest kB": "largest_kb", "% above 600 kB": "over_600_kb"}


@PAPER.study
def study(trial: Trial) -> None:
    """Networks in one process and between several, attacked and not; communities of taste; clicks that move a top."""
    size = trial.pick(smoke=Size(8, 160, 20), quick=Size(40, 2_000, 100), full=Size(100, 10_000, 100))
    seeds = trial.seeds if trial.scale != "smoke" else trial.seeds[:1]
    curves: dict[tuple[str, int], list[dict[str, list[float]]]] = {}
    plan = [(scenario, F, seed) for scenario in _SCENARIOS for F in (0, 1) for seed in seeds]
    for scenario, F, seed in trial.track(plan, "networks"):
        key = f"{scenario} F={F} {size} seed={seed}"
        curves.setdefault((scenario, F), []).append(trial.step(key, partial(_network, scenario, F, size, seed)))
    for seed in trial.track(seeds, _TCP):
        found = trial.step(f"{_TCP} {size} seed={seed}", partial(_between_processes, size, seed))
        curves.setdefault((_TCP, 1), []).append(found)
    _measure_networks(trial, curves, size)
    _measure_discovery(trial, curves, size, seeds)
    measure_communities(trial, size, seeds)
    measure_robustness(trial, size, seeds)
    _tables(trial, curves)
    _figures(trial, curves, size)


def _network(scenario: Any, F: int, size: Size, seed: int) -> dict[str, list[float]]:
    """The curves of one network, by the fields of `Snapshot`."""
    from fullrank.search import P2PSimulation
    from fullrank.search.catalogue import synthetic_catalogue

    found = P2PSimulation(size.nodes, synthetic_catalogue(seed=seed), scenario, F, size.steps, seed).run(size.every)
    return _columns(found)


def _between_processes(size: Size, seed: int) -> dict[str, list[float]]:
    """The same between two processes; a fifth of the peers is always cut off, and each process is killed once."""
    from tempfile import TemporaryDirectory

    from fullrank.search import ProcessNetwork, Timeline
    from fullrank.search.catalogue import synthetic_catalogue

    timeline = Timeline(size.nodes, synthetic_catalogue(seed=seed), steps=size.steps, seed=seed, away=0.2)
    kills = (size.steps // 3, 2 * size.steps // 3)
    with TemporaryDirectory() as folder:
        network = ProcessNetwork(timeline, F=1, in_flight=8, folder=folder, kills=kills)
        return _columns(network.run(2 * size.every)) | {"unreached": [float(network.unreached)]}


def _columns(snapshots: list[Snapshot]) -> dict[str, list[float]]:
    return {name: [float(getattr(found, name)) for found in snapshots] for name in snapshots[0]._fields}


def _measure_networks(trial: Trial, curves: Any, size: Size) -> None:
    import numpy as np

    def values(scenario: str, F: int, column: str = "count_distance") -> np.ndarray:
        """(seeds, snapshots)."""
        return np.array([run[column] for run in curves[scenario, F]])

    def worst(scenario: str) -> np.ndarray:
        """Distances (seeds, snapshots), of the F with the larger one."""
        return np.maximum(values(scenario, 0), values(scenario, 1))

    def worst_last(scenario: str) -> list[float]:
        return worst(scenario)[:, -1].tolist()

    start = values("baseline", 1)[:, 0].tolist()
    strike = int(np.flatnonzero(values("baseline", 1, "step")[0] < size.steps // 2)[-1])  # last look before the attack
    over_tcp = values(_TCP, 1)[:, -1].tolist()
    ends = {"start": start, "end": worst_last("baseline"), f"end, {_TCP}": over_tcp}
    trial.measure("no-central-data", *mean_and_spread(ends))
    trial.note(
        "Over TCP two processes speak on one machine, a fifth of the peers is always cut off, and each process is "
        f"killed once and goes on from its disk: {values(_TCP, 1, 'unreached').mean():.0f} of {size.steps} exchanges "
        "failed for that."
    )
    trial.measure("converges", {
        "rho": max(_falls(values("baseline", F)) for F in (0, 1)),
        "left at the end": float(np.mean(ends["end"]) / np.mean(start)),
    })  # fmt: skip
    shares = {
        name: 100 * min(float(values(name, F, "median_top_share")[:, -1].mean()) for F in (0, 1)) for name in _SCENARIOS
    }
    trial.measure("top-item-agreed", shares)
    peaks = {name: worst(name)[:, strike + 1 :].max(1) for name in _ATTACKS[:2]}
    damage = {f"{name} peak": peak.tolist() for name, peak in peaks.items()}
    damage |= {f"{name} rise": (peak - worst(name)[:, strike]).tolist() for name, peak in peaks.items()}
    trial.measure("recovers-from-attack", *mean_and_spread({"start": start, **damage}))
    trial.note(
        "The targeted attack is on one term of 39: the mean over all terms can hardly show it. Attacks begin at half "
        "of the steps, and what has not levelled off by the end may do so later."
    )
    epic = worst("epic")
    half_way = strike + epic[:, strike:].shape[1] // 2
    stages = {"epic before": epic[:, strike].tolist(), "epic half-way": epic[:, half_way].tolist()}
    trial.measure("epic-is-worst", *mean_and_spread(stages | {name: worst_last(name) for name in _ATTACKS}))
    onsets = {f"F={F}": [_onset(curve, size, strike) for name in _ATTACKS for curve in values(name, F)] for F in (0, 1)}
    trial.measure("onset-of-damage", *mean_and_spread(onsets))
    gossip = {name: values(name, 1) for name in ("push", "pull")}
    before = {f"{name} before attack": found[:, : strike + 1].mean(1).tolist() for name, found in gossip.items()}
    rise = {
        f"{name} rise": (found[:, strike + 1 :].mean(1) - found[:, strike]).tolist() for name, found in gossip.items()
    }
    trial.measure("push-and-pull", *mean_and_spread(before | rise))
    sizes = {name: values("baseline", 1, column)[:, 1:] for name, column in _SIZES.items()}
    trial.measure("message-size", {
        "mean kB": float(sizes["mean kB"].mean()),
        "largest kB": float(sizes["largest kB"].max()),
        "% above 600 kB": 100 * float(sizes["% above 600 kB"].mean()),
    })  # fmt: skip
    trial.measure("packed-messages", max(float(values(name, 1, "packed_kb").max()) for name in _SCENARIOS))
    trial.note(
        "Sizes of messages are those of the network without attackers at 600 bytes a row. The large ones are first "
        "ones: whoever is asked for the first time gives its whole log."
    )
    trial.measure(
        "similarity-matters",
        *mean_and_spread({f"F={F}": values("baseline", F, "distance").mean(1).tolist() for F in (0, 1)}),
    )
    moved = {f"F={F}": values("epic", F, "distance") for F in (0, 1)}
    trial.measure(
        "similarity-shields",
        *mean_and_spread({name: (found[:, -1] - found[:, strike]).tolist() for name, found in moved.items()}),
    )


def _falls(distances: np.ndarray) -> float:
    """Spearman's correlation of the mean distance with time."""
    from scipy import stats

    found: Any = stats.spearmanr(range(distances.shape[1]), distances.mean(0))
    return float(found[0])


def _onset(distances: np.ndarray, size: Size, strike: int) -> float:
    """Steps from the attack until the distance is above what it was by a twentieth of its start; all, if never."""
    import numpy as np

    above = np.flatnonzero(distances[strike + 1 :] > distances[strike] + distances[0] / 20)
    return float(size.every * (above[0] if len(above) else len(distances) - 1 - strike))


def _measure_discovery(trial: Trial, curves: Any, size: Size, seeds: Any) -> None:
    alone = [
        trial.step(f"rows alone {size} seed={seed}", partial(_rows_alone, size, seed))
        for seed in trial.track(seeds, "discovery")
    ]
    asked = [run["count_distance"][-1] for run in curves["baseline", 1]]
    trial.measure("asked-peers-learn-who-asks", *mean_and_spread({"asked learn": asked, "rows alone": alone}))


def _rows_alone(size: Size, seed: int) -> float:
    """The last distance where peers become known by their rows alone."""
    from fullrank.search import P2PSimulation
    from fullrank.search.catalogue import synthetic_catalogue

    catalogue = synthetic_catalogue(seed=seed)
    simulation = P2PSimulation(size.nodes, catalogue, F=1, steps=size.steps, seed=seed, introductions=False)
    return simulation.run(size.steps)[-1].count_distance


def _tables(trial: Trial, curves: Any) -> None:
    import numpy as np

    rows = []
    for (scenario, F), runs in curves.items():
        ends = {name: float(np.mean([run[name][-1] for run in runs])) for name in runs[0]}
        rows.append(
            {
                "scenario": scenario,
                "F": F,
                "distance by counts": ends["count_distance"],
                "distance of rankings": ends["distance"],
                "top item by counts": ends["count_top_share"],
                "top item of rankings": ends["top_share"],
                "rows a peer": ends["rows"],
                "largest message kB": ends["largest_kb"],
                "packed kB": ends["packed_kb"],
            }
        )
    trial.table("networks-at-the-end", rows)


def _figures(trial: Trial, curves: Any, size: Size) -> None:
    panels = {
        "convergence": (("count_distance", "distance by counts"), ("distance", "distance of rankings")),
        "top-items": (("count_top_share", "top item by counts"), ("top_share", "top item of rankings")),
        "messages": (
            ("message_kb", "mean message, kB at 600 bytes a row"),
            ("packed_kb", "largest message, packed kB"),
        ),
    }
    for name, columns in panels.items():
        trial.figure(name, _figure(curves, size, columns))


def _figure(curves: Any, size: Size, columns: Any) -> Any:
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure((9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for (column, label), axes in zip(columns, panels, strict=True):
        for (scenario, F), runs in curves.items():
            mean = np.mean([run[column] for run in runs], axis=0)
            axes.plot(
                runs[0]["step"],
                mean,
                label=f"{scenario}, F = {F}",
                linestyle="-" if F else "--",
                color=f"C{(*_SCENARIOS, _TCP).index(scenario)}",
                linewidth=1,
            )
        axes.axvline(size.steps // 2, color="0.7", linewidth=0.8, zorder=0)  # the attack
        axes.set(xlabel="step", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].legend(fontsize="x-small", ncols=2)
    return figure
