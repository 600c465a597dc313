"""WaRA: Wavelet Low Rank Adaptation (WaRA)."""

from fullrank.papers import Claim, Paper

_NUMBERS = "the paper's image generation and segmentation set-ups, whose numbers are not printed in the abstract"
_SHIFTS = ("noise", "checkerboard", "blur")

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
        "The authors' code could not be obtained and neither abstract prints a number; the forms follow the abstracts "
        "and one figure caption. Without gates the grid form is exactly LoRA at equal size, and the shared form with a "
        "one-level Haar wavelet is a bare Kronecker product, so degenerate settings give a warning. The default is the "
        "form with one pair of factors per sub-band, which is never degenerate and can be merged; the gated grid form "
        "is the one for vision transformers. A wavelet helps where an axis has an order (pixels, patches), not on "
        "hidden axes."
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
            says=(
                "WaRA also works on language tasks: here at least 3 points above a trained head alone and at most 3 "
                "points below LoRA of equal size."
            ),
            source="abstract of version 1",
            unit="%",
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
            source="shapes in the overview figure of version 1",
            unit="ratio",
            holds=lambda ratio: ratio == 0.5,
        ),
        Claim(
            id="local-structure",
            says=(
                "Updates have local structure that wavelet blocks use: approximating the update for inverted contrast "
                "they err at least 10 % less on the pixel axis than on the same axis shuffled, and never more for blur."
            ),
            source="abstract of version 1",
            unit="relative error",
            holds=lambda m: (
                m["inversion, ordered"] <= 0.9 * m["inversion, shuffled"] and m["blur, ordered"] <= m["blur, shuffled"]
            ),
        ),
        Claim(
            id="beats-lora-at-equal-size",
            says=(
                "In a vision transformer under three image shifts, gated WaRA beats LoRA of equal size by at least one "
                "point on average and is nowhere worse than noise."
            ),
            source="abstract of version 2, at small scale",
            unit="points above LoRA",
            holds=lambda m: sum(m[shift] for shift in _SHIFTS) / 3 >= 1 and min(m[shift] for shift in _SHIFTS) >= -1.5,
        ),
        Claim(
            id="ungated-is-lora",
            says="The ungated grid form computes exactly what LoRA of the same size computes.",
            source="algebra, and our pilot on digits",
            unit="largest difference of outputs",
            holds=lambda difference: difference <= 1e-5,
            kind="finding",
        ),
        Claim(
            id="unordered-axes-do-not-gain",
            says="On hidden axes without an order wavelet blocks approximate an update no better than LoRA does.",
            source="our pilot on photographs",
            unit="relative error",
            holds=lambda m: m["WaRA"] >= m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="two-levels-beat-lora-when-ordered",
            says=(
                "With a small budget, two levels of the Haar wavelet approximate the update of pixel layers for "
                "inverted contrast better than the best low-rank matrix of equal size."
            ),
            source="our pilot on photographs",
            unit="relative error",
            holds=lambda m: m["WaRA"] < m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="shared-haar-is-kronecker",
            says="With one level of Haar the shared form is the product of its factors, Kronecker the 2 x 2 identity.",
            source="algebra, checked numerically",
            unit="largest difference of weights",
            holds=lambda difference: difference <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="shared-form-doubles-rank",
            says="The shared form's update has rank 2 r, four times the rank of LoRA at equal parameters.",
            source="algebra, checked numerically",
            unit="matrix rank",
            holds=lambda m: m["WaRA, equal r"] == 2 * m["LoRA"] and m["WaRA, equal parameters"] == 4 * m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="longer-filters-no-worse",
            says=(
                "In the shared form a longer filter (db4) classifies sentences at least as well as Haar, whose update "
                "holds no wavelet any more."
            ),
            source="our pilot on TREC with MiniLM",
            unit="%",
            holds=lambda m: m["db4"] >= m["Haar"],
            kind="finding",
        ),
    ),
)
