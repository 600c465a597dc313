"""Leveraging Vision-Language Models for Visual Grounding and Analysis of Automotive UI (ELAM)."""

from fullrank.papers import Claim, Paper

_WEIGHTS = "ELAM-7B or Molmo-7B-D weights and AutomotiveUI-Bench-4K"

PAPER = Paper(
    slug="elam",
    title="Leveraging Vision-Language Models for Visual Grounding and Analysis of Automotive UI",
    authors=4,
    published="2025-05-09",
    arxiv="2505.05895",
    position=10,
    topics=(
        "interfaces",
        "vision",
        "language",
    ),
    summary=(
        "Car infotainment screens change often and must be tested automatically. The authors publish a "
        "benchmark of 998 photographs with 4,208 annotations and fine-tune Molmo-7B with LoRA on generated "
        "instructions with reasoning, so that it points at the element to tap and judges whether an expected "
        "state is true. The model also gains about five points on the general ScreenSpot benchmark."
    ),
    notes=(
        "The weights and the benchmark are on a model hub. At toy scale the paper's in-domain order holds, its "
        "gain on other domains does not: the source domain is partly forgotten."
    ),
    claims=(
        Claim(
            id="automotive-tag",
            says=(
                "Test-action grounding on AutomotiveUI-Bench-4K: ELAM 87.6 %, Molmo 71.3, UGround 69.4, "
                "TinyClick 61.0, InternVL2.5 26.6."
            ),
            source="model card",
            paper_value={
                "InternVL2.5-8B": 26.6,
                "TinyClick": 61.0,
                "UGround-V1-7B": 69.4,
                "Molmo-7B-D": 71.3,
                "ELAM-7B": 87.6,
            },
            unit="%",
            needs=_WEIGHTS,
        ),
        Claim(
            id="automotive-erg",
            says="Expected-result grounding: ELAM 77.5 %, Molmo 71.4, UGround 55.0, TinyClick 54.6, InternVL2.5 5.7.",
            source="model card",
            paper_value={
                "InternVL2.5-8B": 5.7,
                "TinyClick": 54.6,
                "UGround-V1-7B": 55.0,
                "Molmo-7B-D": 71.4,
                "ELAM-7B": 77.5,
            },
            unit="%",
            needs=_WEIGHTS,
        ),
        Claim(
            id="automotive-ere",
            says="Expected-result evaluation: ELAM 78.2 %, Molmo about 66, InternVL2.5 64.8.",
            source="model card; the last digit of Molmo is cut off there",
            paper_value={"InternVL2.5-8B": 64.8, "Molmo-7B-D": 66.0, "ELAM-7B": 78.2},
            unit="%",
            needs=_WEIGHTS,
        ),
        Claim(
            id="screenspot",
            says="On ScreenSpot, another domain, the average rises from 75.2 % to 80.4 % (80.8 in version 3).",
            source="abstract; baseline from the differences",
            paper_value={"Molmo-7B-D": 75.2, "ELAM-7B, version 1": 80.4, "ELAM-7B, version 3": 80.8},
            unit="%",
            needs="ELAM-7B weights and ScreenSpot",
        ),
        Claim(
            id="gain-over-molmo",
            says="Gains over Molmo on the benchmark are between 6.1 and 16.3 points.",
            source="secondary summary, consistent with the model card",
            paper_value="6.1 to 16.3",
            unit="points",
            needs=_WEIGHTS,
            confirmed=False,
        ),
        Claim(
            id="adaptation-helps",
            says=(
                "Adapting a general grounder to the automotive domain with LoRA raises action grounding and "
                "result evaluation by at least 0.15."
            ),
            source="ordering of the benchmark",
            unit="share",
            holds=lambda m: m["TAG gain"] >= 0.15 and m["ERE gain"] >= 0.15,
        ),
        Claim(
            id="lora-is-enough",
            says="LoRA reaches at least 80 % of full fine-tuning's grounding with under 10 % of the parameters.",
            source="the paper's choice of LoRA",
            holds=lambda m: m["LoRA TAG"] >= 0.8 * m["full TAG"] and m["parameter share"] < 0.1,
        ),
        Claim(
            id="source-domain-is-forgotten",
            says=(
                "At toy scale the adapted model is worse on the source domain than before, unlike the paper's "
                "gain on ScreenSpot."
            ),
            source="our pilot with a rendered interface",
            unit="share",
            holds=lambda m: m["source TAG after"] < m["source TAG before"],
            kind="finding",
        ),
    ),
)
