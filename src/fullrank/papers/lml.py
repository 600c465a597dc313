"""Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order Levenberg-Marquardt-Langevin
(LML).
"""

from fullrank.papers import Claim, Paper

_FID = "pretrained diffusion models and the reference image sets"

PAPER = Paper(
    slug="lml",
    title=(
        "Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order Levenberg-Marquardt-Langevin"
    ),
    authors=12,
    published="2025-05-30",
    arxiv="2505.24222",
    position=25,
    repository="https://github.com/zituitui/LML-diffusion-sampler",
    venue="ICCV 2025",
    topics=(
        "optimisation",
        "vision",
    ),
    summary=(
        "Diffusion samplers follow first-order Langevin steps. LML approximates the curvature with a rank-one "
        "form of the model's own output plus Levenberg-Marquardt damping, which costs almost nothing and needs "
        "no training. Images improve at the same number of steps on several pretrained models."
    ),
    notes=(
        "The sampler's damping decides: under-damped it hurts higher-order solvers on one of our data sets at "
        "every step count. With kappa = 0 it equals the base solver exactly."
    ),
    claims=(
        Claim(
            id="better-images",
            says=(
                "Image quality of several pretrained diffusion models improves significantly over first-order "
                "samplers at negligible cost."
            ),
            source="abstract",
            needs=_FID,
        ),
        Claim(
            id="fid-tables",
            says=(
                "FID on CIFAR-10, CelebA-HQ and COCO and T2I-CompBench scores are better than DDIM, PNDM, DPM-"
                "Solver, DPM++ and UniPC at 5 to 100 evaluations."
            ),
            source="tables, not reachable",
            needs=_FID,
            confirmed=False,
        ),
        Claim(
            id="fewer-steps",
            says=(
                "At 8 evaluations or fewer the corrected sampler is closer to the data than its base solver of "
                "order 1, 2 and 3; at 5 by at least 25 %."
            ),
            source="ordering of the tables, on exact scores",
            unit="relative",
            holds=lambda m: m["largest ratio at 8 or fewer"] < 1 and m["mean ratio at 5"] <= 0.75,
        ),
        Claim(
            id="no-difference-at-many-steps",
            says="At 20 evaluations the samplers are within 5 %.",
            source="ordering of the tables, on exact scores",
            unit="relative",
            holds=lambda m: abs(m["ratio at 20"] - 1) <= 0.05,
        ),
        Claim(
            id="identity-at-zero",
            says="With kappa = 0 the sampler is its base solver.",
            source="method",
            unit="largest difference",
            holds=lambda difference: difference == 0,
        ),
        Claim(
            id="under-damped-hurts",
            says="Under-damped (kappa 0.1, lambda 0.1) it is worse than the base solver of order 2 and 3 on digits.",
            source="our pilot on exact scores",
            unit="ratio",
            holds=lambda m: min(m["order 2"], m["order 3"]) > 1,
            kind="finding",
        ),
    ),
)
