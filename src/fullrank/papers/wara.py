"""WaRA: Wavelet Low Rank Adaptation (WaRA)."""

from fullrank.papers import Claim, Paper

_NUMBERS = "the paper's image generation and segmentation set-ups, whose numbers are not printed in the abstract"

PAPER = Paper(
    slug="wara",
    title="WaRA: Wavelet Low Rank Adaptation",
    authors=5,
    published="2025-06-25",
    arxiv="2506.24092",
    position=4,
    repository="https://github.com/moeinheidari7829/WaRA",
    topics=(
        "adapters",
        "vision",
    ),
    summary=(
        "WaRA writes the weight update of a frozen layer in a wavelet domain, factorises each band at low rank "
        "and transforms back. Coarse and fine structure of the update get separate small budgets. It is tested "
        "on image generation, classification and segmentation, and briefly on language."
    ),
    notes=(
        "Without gates the grid form of WaRA is exactly LoRA at equal size, so the gated form is the default "
        "and the ungated one says so. A wavelet on the feature axis helps where that axis has an order (pixels,"
        " patches); on unordered hidden axes it does not. The one-level Haar shared form is a Kronecker "
        "product."
    ),
    claims=(
        Claim(
            id="superior-on-vision",
            says=(
                "WaRA is better than LoRA and its kin in image generation, classification and segmentation, "
                "with better images and less complexity."
            ),
            source="abstract of version 1",
            needs=_NUMBERS,
        ),
        Claim(
            id="effective-on-language",
            says="WaRA also works on language tasks.",
            source="abstract of version 1",
            holds=lambda m: m["WaRA"] - m["head only"] >= 3 and m["LoRA"] - m["WaRA"] <= 3,
        ),
        Claim(
            id="medical-classification",
            says="WaRA is consistently better with fewer parameters on four modalities of medical images.",
            source="abstract of version 2",
            needs="the paper's four medical image sets and backbones",
        ),
        Claim(
            id="half-the-parameters",
            says=(
                "At equal rank one level of the transform needs r (d1 + d2) / 2 parameters where LoRA needs r "
                "(d1 + d2)."
            ),
            source="derived from the figure's shapes",
            paper_value=0.5,
            unit="ratio",
            holds=lambda ratio: ratio == 0.5,
        ),
        Claim(
            id="local-structure",
            says=(
                "Wavelet blocks use the order of an axis: they beat the same blocks on a shuffled axis by at "
                "least 10 %."
            ),
            source="the paper's argument for wavelets",
            unit="relative",
            holds=lambda m: m["ordered"] <= 0.9 * m["shuffled"],
        ),
        Claim(
            id="beats-lora-at-equal-size",
            says="On image shifts a gated WaRA beats LoRA of equal size.",
            source="ordering of the abstract",
            unit="points",
            holds=lambda m: m["gated WaRA"] - m["LoRA"] >= 1,
        ),
        Claim(
            id="ungated-is-lora",
            says="The ungated grid form computes exactly what LoRA of the same size computes.",
            source="algebra, checked numerically",
            holds=lambda difference: difference < 1e-5,
            kind="finding",
        ),
        Claim(
            id="unordered-axes-do-not-gain",
            says="On hidden axes without an order WaRA does not beat LoRA.",
            source="our pilot",
            holds=lambda m: m["WaRA error"] >= 0.98 * m["LoRA error"],
            kind="finding",
        ),
    ),
)
