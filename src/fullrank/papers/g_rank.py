"""G-Rank: Unsupervised Continuous Learn-to-Rank for Edge Devices in a P2P Network (G-Rank)."""

from fullrank.papers import Claim, Paper

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
    notes=(
        "The similarity weight F is dead code in the original, so its finding that F matters little is not a "
        "finding. The claims are curves without tables. With similarity active, rankings personalise and "
        "consensus is slow."
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
    ),
)
