"""Towards Scalable Foundation Model for Multi-modal and Hyperspectral Geospatial Data (LESS ViT)."""

from fullrank.papers import Claim, Paper

_GFM = "pre-training on hyperspectral archives and GFM-Bench"

PAPER = Paper(
    slug="less-vit",
    title="Towards Scalable Foundation Model for Multi-modal and Hyperspectral Geospatial Data",
    authors=6,
    published="2025-03-17",
    arxiv="2503.12843",
    position=27,
    repository="https://github.com/uiuctml/GeospatialFM",
    topics=(
        "remote sensing",
        "vision",
        "attention",
    ),
    summary=(
        "A foundation model for satellite data with many bands: attention over all space-channel patches is "
        "approximated by a Kronecker product of a spatial and a spectral attention, each small. Continuous "
        "embeddings carry wavelength and position, a local mask limits the spatial view, and pretraining masks "
        "both patches and channels. A benchmark, GFM-Bench, comes with it."
    ),
    notes=(
        "The code of the paper is one commit of a repository that went on to a reworked network, which is "
        "offered as the 2026 variant of the block. Rank 1 attention is the Kronecker product of a spatial and a"
        " spectral map."
    ),
    claims=(
        Claim(
            id="eurosat",
            says=(
                "EuroSAT, fine-tuned and linear probe: 98.06 and 95.12 (SatMAE 98.78 and 96.04, CROMA 98.83 and"
                " 95.87, SpectralGPT 97.94 and 90.57)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 98.78,
                "SatMAE LP": 96.04,
                "CROMA FT": 98.83,
                "CROMA LP": 95.87,
                "SpectralGPT FT": 97.94,
                "SpectralGPT LP": 90.57,
                "LESS FT": 98.06,
                "LESS LP": 95.12,
            },
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="bigearthnet",
            says=(
                "BigEarthNet 10 %: mAP 86.08 and 82.94 (SatMAE 85.84 and 78.69, CROMA 87.57 and 84.90, "
                "SpectralGPT 83.78 and 73.29)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 85.84,
                "SatMAE LP": 78.69,
                "CROMA FT": 87.57,
                "CROMA LP": 84.9,
                "SpectralGPT FT": 83.78,
                "SpectralGPT LP": 73.29,
                "LESS FT": 86.08,
                "LESS LP": 82.94,
            },
            unit="mAP",
            needs=_GFM,
        ),
        Claim(
            id="so2sat",
            says=(
                "So2Sat 10 %: 63.25 and 64.66 (SatMAE 64.97 and 64.65, CROMA 66.53 and 65.04, SpectralGPT 61.63"
                " and 57.49)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 64.97,
                "SatMAE LP": 64.65,
                "CROMA FT": 66.53,
                "CROMA LP": 65.04,
                "SpectralGPT FT": 61.63,
                "SpectralGPT LP": 57.49,
                "LESS FT": 63.25,
                "LESS LP": 64.66,
            },
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="segmentation",
            says="Segmentation mIoU on SegMunich, DFC2020 and MARIDA: 42.29, 45.60, 55.64.",
            source="project page",
            paper_value={
                "SatMAE SegMunich": 44.87,
                "SatMAE DFC2020": 52.84,
                "SatMAE MARIDA": 54.33,
                "CROMA SegMunich": 39.61,
                "CROMA DFC2020": 49.48,
                "CROMA MARIDA": 43.04,
                "SpectralGPT SegMunich": 44.73,
                "SpectralGPT DFC2020": 48.23,
                "SpectralGPT MARIDA": 44.72,
                "LESS SegMunich": 42.29,
                "LESS DFC2020": 45.6,
                "LESS MARIDA": 55.64,
            },
            unit="mIoU",
            needs=_GFM,
        ),
        Claim(
            id="average",
            says="The average of the nine: 70.40 (SatMAE 71.22, CROMA 70.10, SpectralGPT 66.93).",
            source="project page",
            paper_value={"SatMAE": 71.22, "CROMA": 70.1, "SpectralGPT": 66.93, "LESS": 70.4},
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="cross-satellite",
            says=(
                "On another satellite (Landsat, 20 channels) mIoU is 24.31 against 18.05 (SatMAE) and 10.35 "
                "(Channel-ViT)."
            ),
            source="project page",
            paper_value={"SatMAE": 18.05, "Channel-ViT": 10.35, "LESS": 24.31},
            unit="mIoU",
            needs=_GFM,
        ),
        Claim(
            id="cost-landsat",
            says=(
                "There SatMAE costs 0.3, 0.6 and 0.3 times as much (fine-tuning, FLOPs, inference), Channel-ViT"
                " 2.6, 3.1 and 3.6 times."
            ),
            source="project page",
            paper_value={
                "SatMAE time": 0.3,
                "SatMAE FLOPs": 0.6,
                "SatMAE inference": 0.3,
                "Channel-ViT time": 2.6,
                "Channel-ViT FLOPs": 3.1,
                "Channel-ViT inference": 3.6,
            },
            unit="x",
            needs=_GFM,
        ),
        Claim(
            id="cost-bigearthnet",
            says="On BigEarthNet SatMAE costs 0.2, 0.6 and 0.1 times as much, Channel-ViT 3.3, 2.4 and 2.0 times.",
            source="project page",
            paper_value={
                "SatMAE time": 0.2,
                "SatMAE FLOPs": 0.6,
                "SatMAE inference": 0.1,
                "Channel-ViT time": 3.3,
                "Channel-ViT FLOPs": 2.4,
                "Channel-ViT inference": 2.0,
            },
            unit="x",
            needs=_GFM,
        ),
        Claim(
            id="latency-in-channels",
            says=(
                "Per token the latency at 200 channels is that at 10; Channel-ViT's is 12.5 times at 180 and "
                "out of memory at 200."
            ),
            source="repository of the later paper",
            paper_value={"LESS": 1.0, "ChannelViT at 180": 12.5},
            unit="x",
            holds=lambda m: m["LESS exponent"] < m["joint attention exponent"],
        ),
        Claim(
            id="cheaper-and-competitive",
            says="Overall competitive, better across satellites, cheaper.",
            source="abstract",
            unit="relative drop",
            holds=lambda m: m["LESS"] < m["stacked ViT"],
        ),
        Claim(
            id="masked-autoencoder-learns",
            says=(
                "The hyperspectral masked autoencoder predicts hidden patches and hidden channels better than "
                "the mean of the visible ones."
            ),
            source="method, at small scale",
            unit="error ratio",
            holds=lambda m: m["patches"] < 1 and m["channels"] < 1,
        ),
    ),
)
