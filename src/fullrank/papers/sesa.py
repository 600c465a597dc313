"""SESA: Supervised Explicit Semantic Analysis (SESA)."""

from fullrank.papers import Claim, Paper

PAPER = Paper(
    slug="sesa",
    title="SESA: Supervised Explicit Semantic Analysis",
    authors=2,
    published="2017-08-10",
    arxiv="1708.03246",
    position=36,
    topics=(
        "retrieval",
        "explanation",
    ),
    summary=(
        "SESA embeds job ads and member profiles into a space whose axes are named skills, trained for "
        "relevance with recurrent encoders. The score stays explainable because each axis has a meaning. On "
        "LinkedIn data it matches the best models of its time."
    ),
    notes=(
        "The model section could not be read; the network is a design from the abstract, explicit semantic "
        "analysis and the DSSM family. On this small set lexical TF-IDF beats all 35-dimensional models in "
        "ranking; the case for SESA is that its dimensions mean something."
    ),
    claims=(
        Claim(
            id="state-of-the-art",
            says="State of the art on LinkedIn job-profile relevance.",
            source="abstract",
            needs="LinkedIn's private data",
        ),
        Claim(
            id="every-dimension-is-a-skill",
            says="Every dimension of the representation is a skill, unlike in latent models.",
            source="abstract",
            unit="correlation",
            holds=lambda m: m["SESA"] > 0.5 and abs(m["latent"]) < 0.1,
        ),
        Claim(
            id="tables",
            says="The paper's tables.",
            source="tables, not read",
            needs="LinkedIn's private data",
            confirmed=False,
        ),
        Claim(
            id="ranking-is-kept",
            says=(
                "Interpretability costs little: the reciprocal rank is at least 0.97 of a latent model's of equal size."
            ),
            source="our measurable form of the claim",
            unit="MRR",
            holds=lambda m: m["SESA"] >= 0.97 * m["latent"],
        ),
        Claim(
            id="beats-explicit-and-skills",
            says="SESA ranks better than unsupervised explicit semantic analysis and than predicted skills alone.",
            source="our measurable form of the claim",
            unit="MRR",
            holds=lambda m: m["SESA"] > max(m["ESA"], m["skills only"]),
        ),
        Claim(
            id="tf-idf-wins-small",
            says="On a small set lexical TF-IDF ranks better than all 35-dimensional models.",
            source="our pilot on O*NET",
            unit="MRR",
            holds=lambda m: m["TF-IDF"] > max(m["SESA"], m["latent"]),
            kind="finding",
        ),
    ),
)
