"""Taxonomy Adaptive Cross-Domain Adaptation in Medical Imaging via Optimization Trajectory Distillation (OTD)."""

from fullrank.papers import Claim, Paper

_NUCLEI = "PanNuke, Lizard and the authors' network on a GPU"

PAPER = Paper(
    slug="otd",
    title="Taxonomy Adaptive Cross-Domain Adaptation in Medical Imaging via Optimization Trajectory Distillation",
    authors=6,
    published="2023-07-27",
    arxiv="2307.14709",
    position=30,
    repository="https://github.com/camwew/TADA-MI",
    venue="ICCV 2023",
    topics=(
        "pathology",
        "optimisation",
    ),
    summary=(
        "A segmentation or classification model must move to a new hospital where the label sets differ. "
        "Optimisation trajectory distillation keeps the gradients of the poorly labelled side in the low-rank "
        "gradient space of the well labelled side, across domains and across classes. It helps in several "
        "clinical tasks and an open-world one."
    ),
    notes=(
        "At small scale the distillation streams are neutral: the scaffold of few-shot target data, source data"
        " and pseudo-labels gives the gain. Large or relative weights hurt."
    ),
    claims=(
        Claim(
            id="improvements",
            says=(
                "On several tasks, among them nuclei from PanNuke to Lizard, OTD improves over earlier "
                "adaptation methods."
            ),
            source="abstract, tables not confirmed",
            needs=_NUCLEI,
            confirmed=False,
        ),
        Claim(
            id="gradient-space-is-low-rank",
            says="The gradients of training lie in a low-rank space: a few dozen directions of 300 hold 98 %.",
            source="abstract",
            unit="share of the directions",
            holds=lambda share: share <= 0.25,
        ),
        Claim(
            id="scaffold-order",
            says="Few-shot alone is worse than with source data, and that worse than with pseudo-labels.",
            source="premise of the set-up",
            unit="macro F1",
            holds=lambda m: m["few-shot"] < m["source and few-shot"] < m["base"],
        ),
        Claim(
            id="otd-does-not-hurt",
            says="With the official weight OTD is not worse than the base.",
            source="ordering of the abstract, at small scale",
            unit="macro F1",
            holds=lambda m: m["OTD"] >= m["base"] - 0.01,
        ),
        Claim(
            id="large-weights-hurt",
            says="A relative weight of 0.1 or more lowers macro F1.",
            source="our pilot on digits",
            unit="macro F1",
            holds=lambda m: m["large weight"] < m["base"],
            kind="finding",
        ),
    ),
)
