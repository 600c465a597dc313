"""RPCANet++: Deep Interpretable Robust PCA for Sparse Object Segmentation (RPCANet, RPCANet++)."""

from fullrank.papers import Claim, Paper

_INFRARED = "the infrared small target sets and a GPU"
_VESSEL = "the retinal vessel sets and a GPU"

PAPER = Paper(
    slug="rpcanet",
    title="RPCANet++: Deep Interpretable Robust PCA for Sparse Object Segmentation",
    authors=7,
    published="2025-08-06",
    arxiv="2508.04190",
    position=23,
    repository="https://github.com/fengyiwu98/RPCANet",
    project_page="https://fengyiwu98.github.io/rpcanetx",
    comments=2,
    topics=("vision",),
    summary=(
        "Robust PCA splits an image into a low-rank background and sparse objects; RPCANet++ unrolls its "
        "iterations into a network with modules for background, object and restoration. A memory path carries "
        "background features between stages and a contrast prior helps to find objects. It segments small "
        "infrared targets, vessels and defects, and reports rank and sparsity as explanations."
    ),
    notes=(
        "The repository holds both networks. The official protocol normalises each prediction by its maximum "
        "before the threshold; on steel defects that makes no difference. The official weights, run on a "
        "quarter of the public test images, give the published numbers."
    ),
    claims=(
        Claim(
            id="nudt-sirst",
            says="NUDT-SIRST: IoU 89.31 (RPCANet) to 94.39 (six stages), F1 94.35 to 97.12.",
            source="official README",
            paper_value={
                "RPCANet IoU": 89.31,
                "S3 IoU": 92.7,
                "S6 IoU": 94.39,
                "S9 IoU": 93.97,
                "RPCANet F1": 94.35,
                "S3 F1": 96.21,
                "S6 F1": 97.12,
                "S9 F1": 96.89,
            },
            unit="%",
            needs=_INFRARED,
        ),
        Claim(
            id="irstd-1k",
            says="IRSTD-1k: IoU 63.21 to 64.93.",
            source="official README",
            paper_value={
                "RPCANet IoU": 63.21,
                "S3 IoU": 64.4,
                "S6 IoU": 64.93,
                "S9 IoU": 63.23,
                "RPCANet F1": 77.45,
                "S3 F1": 78.34,
                "S6 F1": 78.73,
                "S9 F1": 77.48,
            },
            unit="%",
            needs=_INFRARED,
        ),
        Claim(
            id="sirst",
            says="SIRST: IoU 70.37 to 75.52, three stages best.",
            source="official README",
            paper_value={
                "RPCANet IoU": 70.37,
                "S3 IoU": 75.52,
                "S6 IoU": 74.76,
                "S9 IoU": 72.62,
                "RPCANet F1": 82.61,
                "S3 F1": 86.06,
                "S6 F1": 85.47,
                "S9 F1": 84.14,
            },
            unit="%",
            needs=_INFRARED,
        ),
        Claim(
            id="sirst-aug",
            says="SIRST-Aug: IoU 72.54 to 74.89.",
            source="official README",
            paper_value={
                "RPCANet IoU": 72.54,
                "S3 IoU": 73.9,
                "S6 IoU": 74.89,
                "S9 IoU": 73.13,
                "RPCANet F1": 84.08,
                "S3 F1": 85.01,
                "S6 F1": 85.44,
                "S9 F1": 84.48,
            },
            unit="%",
            needs=_INFRARED,
        ),
        Claim(
            id="nudt-detection",
            says="NUDT-SIRST detection: Pd 97.14 to 98.41 %, Fa 2.87 to 1.34 (unit not printed, presumably 1e-5).",
            source="official README",
            paper_value={
                "RPCANet Pd": 97.14,
                "S3 Pd": 98.31,
                "S6 Pd": 98.41,
                "S9 Pd": 98.41,
                "RPCANet Fa": 2.87,
                "S3 Fa": 1.67,
                "S6 Fa": 1.34,
                "S9 Fa": 1.44,
            },
            needs=_INFRARED,
        ),
        Claim(
            id="drive",
            says="DRIVE vessels: F1 82.15 to 82.58.",
            source="official README",
            paper_value={
                "RPCANet F1": 82.15,
                "S3 F1": 82.24,
                "S6 F1": 82.58,
                "S9 F1": 82.12,
                "RPCANet IoU": 69.74,
                "S3 IoU": 69.86,
                "S6 IoU": 70.35,
                "S9 IoU": 69.69,
            },
            unit="%",
            needs=_VESSEL,
        ),
        Claim(
            id="stare",
            says="STARE vessels: F1 77.15 to 77.83.",
            source="official README",
            paper_value={
                "RPCANet F1": 77.15,
                "S3 F1": 77.83,
                "S6 F1": 77.33,
                "S9 F1": 77.59,
                "RPCANet IoU": 62.82,
                "S3 IoU": 63.71,
                "S6 IoU": 63.04,
                "S9 IoU": 63.4,
            },
            unit="%",
            needs=_VESSEL,
        ),
        Claim(
            id="chase",
            says="CHASE_DB1 vessels: F1 78.00 to 80.07.",
            source="official README",
            paper_value={
                "RPCANet F1": 78.0,
                "S3 F1": 78.06,
                "S6 F1": 80.07,
                "S9 F1": 77.59,
                "RPCANet IoU": 64.0,
                "S3 IoU": 64.09,
                "S6 IoU": 66.81,
                "S9 IoU": 63.45,
            },
            unit="%",
            needs=_VESSEL,
        ),
        Claim(
            id="neu-seg",
            says=(
                "NEU-Seg steel defects: IoU 76.22 to 80.32, F1 86.51 to 89.09, S 84.19 to 86.84, MAE 0.0346 to 0.0273."
            ),
            source="official README",
            paper_value={
                "RPCANet IoU": 76.22,
                "S3 IoU": 78.99,
                "S6 IoU": 80.32,
                "S9 IoU": 80.1,
                "RPCANet F1": 86.51,
                "S3 F1": 88.26,
                "S6 F1": 89.09,
                "S9 F1": 88.95,
                "RPCANet S": 84.19,
                "S3 S": 85.31,
                "S6 S": 85.75,
                "S9 S": 86.84,
                "RPCANet MAE": 0.0346,
                "S3 MAE": 0.0295,
                "S6 MAE": 0.0273,
                "S9 MAE": 0.0276,
            },
            needs="full NEU-Seg at 200 x 200 and a GPU",
        ),
        Claim(
            id="sd-saliency",
            says="SD-saliency-900: IoU 81.28 to 83.80, F1 89.68 to 91.18.",
            source="official README",
            paper_value={
                "RPCANet IoU": 81.28,
                "S3 IoU": 81.81,
                "S6 IoU": 83.3,
                "S9 IoU": 83.8,
                "RPCANet F1": 89.68,
                "S3 F1": 90.0,
                "S6 F1": 90.89,
                "S9 F1": 91.18,
                "RPCANet S": 87.92,
                "S3 S": 87.76,
                "S6 S": 88.45,
                "S9 S": 89.28,
                "RPCANet MAE": 0.0243,
                "S3 MAE": 0.0235,
                "S6 MAE": 0.0215,
                "S9 MAE": 0.0208,
            },
            needs="SD-saliency-900 and a GPU",
        ),
        Claim(
            id="beats-its-predecessor",
            says=(
                "RPCANet++ segments at least as well as RPCANet, and both far better than classical robust PCA "
                "and Otsu's threshold."
            ),
            source="abstract and tables",
            unit="IoU",
            holds=lambda m: m["RPCANet++"] >= m["RPCANet"] > max(m["robust PCA"], m["Otsu"]) + 10,
        ),
        Claim(
            id="interpretable-stages",
            says="Stage by stage the background gets lower in rank and the objects sparser.",
            source="abstract",
            holds=lambda m: (
                m["last background rank"] < m["input rank"] and m["last object density"] < m["first object density"]
            ),
        ),
        Claim(
            id="published-weights-agree",
            says=(
                "The official RPCANet weights on 210 public NEU-Seg test images give IoU 75.77, F1 86.21, S "
                "84.18, MAE 0.0349, as published."
            ),
            source="our run of the official weights",
            paper_value={"IoU": 76.22, "F1": 86.51, "S": 84.19, "MAE": 0.0346},
            needs="the official weights, which travel with their repository only",
            kind="finding",
        ),
    ),
)
