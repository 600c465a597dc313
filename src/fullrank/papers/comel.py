"""Continual Multiple Instance Learning with Enhanced Localization for Histopathological Whole Slide Image Analysis
(CoMEL).
"""

from fullrank.papers import Claim, Paper

_WSI = "three public sets of whole slide images and a GPU"

PAPER = Paper(
    slug="comel",
    title=(
        "Continual Multiple Instance Learning with Enhanced Localization for Histopathological Whole Slide "
        "Image Analysis"
    ),
    authors=5,
    published="2025-07-03",
    arxiv="2507.02395",
    position=17,
    repository="https://github.com/Hyun1A/CoMEL",
    venue="ICCV 2025",
    topics=(
        "pathology",
        "adapters",
    ),
    summary=(
        "Whole-slide pathology must learn new organs over time from slide-level labels only, without forgetting"
        " where the tumour is. CoMEL combines an efficient grouped attention encoder, pseudo-labels for patches"
        " from bag prototypes and orthogonal weighted low-rank adapters per task. It improves slide accuracy "
        "and localisation over earlier continual methods on three data sets."
    ),
    notes=(
        "OWLoRA projects the gradient of a new task out of the span of earlier ones; an exact and a gradient-"
        "only projection are offered. With the official constants the pseudo-label step selected nothing in our"
        " small bags, and forcing it lowered localisation. Class-incremental learning fails in tiny networks "
        "with the literal penalty."
    ),
    claims=(
        Claim(
            id="bag-accuracy",
            says="Continual bag accuracy rises by up to 11.00 points over earlier methods on three slide sets.",
            source="abstract",
            paper_value=11.0,
            unit="points",
            needs=_WSI,
        ),
        Claim(
            id="localisation",
            says="Localisation accuracy rises by up to 23.4 points.",
            source="abstract",
            paper_value=23.4,
            unit="points",
            needs=_WSI,
        ),
        Claim(
            id="tables",
            says="The 21 tables of joint and continual results favour CoMEL.",
            source="paper, tables not read",
            needs=_WSI,
            confirmed=False,
        ),
        Claim(
            id="owlora-forgets-less",
            says=(
                "On a sequence of tasks OWLoRA forgets less than stacking a new LoRA per task and ends higher "
                "on average."
            ),
            source="the method's premise",
            unit="points",
            holds=lambda m: (
                m["OWLoRA forgetting"] <= 0.75 * m["stacked forgetting"]
                and m["OWLoRA average"] - m["stacked average"] >= 1
            ),
        ),
        Claim(
            id="subspaces-stay-orthogonal",
            says="The exact projection keeps the updates of different tasks orthogonal.",
            source="the method's premise",
            unit="absolute cosine",
            holds=lambda cosine: cosine < 1e-4,
        ),
        Claim(
            id="bags-task-incremental",
            says=(
                "On bags with the task known OWLoRA forgets no more than stacked LoRA, and bag accuracy is not lower."
            ),
            source="ordering of the continual tables",
            unit="accuracy",
            holds=lambda m: (
                m["OWLoRA forgetting"] <= m["stacked forgetting"] and m["OWLoRA accuracy"] >= m["stacked accuracy"]
            ),
        ),
        Claim(
            id="joint-training-localises",
            says=(
                "Trained jointly the model classifies bags with 0.97 and localises instances with an AUC of 0.8"
                " or better."
            ),
            source="joint tables, at toy scale",
            holds=lambda m: m["bag accuracy"] >= 0.97 and m["instance AUC"] >= 0.8,
        ),
        Claim(
            id="full-finetuning-is-a-strong-baseline",
            says="On small bags full fine-tuning keeps up with OWLoRA in bag accuracy.",
            source="our pilot on digit bags",
            unit="accuracy",
            holds=lambda m: m["full"] >= m["OWLoRA"] - 0.02,
            kind="finding",
        ),
        Claim(
            id="class-incremental-fails-small",
            says=(
                "Class-incremental learning with the literal penalty stays far below joint training in a tiny network."
            ),
            source="our pilot on digit bags",
            unit="accuracy",
            holds=lambda m: m["joint"] - m["OWLoRA"] >= 0.3,
            kind="finding",
        ),
    ),
)
