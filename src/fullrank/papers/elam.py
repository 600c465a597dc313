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
        "The body of the paper could not be read, so rank, learning rate and length of the fine-tuning are our "
        "recipe, not the authors'. Points come in percent, units or pixels depending on the model; the convention is "
        "an explicit option. The scorer of ScreenSpot picks its parser by the word 'box' in the answer; ours reads "
        "the syntax. At small scale the in-domain order holds and the gain on other domains does not: the source "
        "domain is partly forgotten."
    ),
    claims=(
        Claim(
            id="automotive-tag",
            says=(
                "On AutomotiveUI-Bench-4K the predicted point for a test action lies in the box for 87.6 % of the "
                "actions; Molmo reaches 71.3, UGround 69.4, TinyClick 61.0, InternVL2.5 26.6."
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
            says=(
                "The point given with the evaluation of an expected result lies in the box in 77.5 % of the cases; "
                "Molmo reaches 71.4, UGround 55.0, TinyClick 54.6, InternVL2.5 5.7."
            ),
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
            says="Of the expected results 78.2 % are judged rightly, by Molmo 66 and a fraction, by InternVL2.5 64.8.",
            source="model card (Molmo's last digit could not be read)",
            paper_value={"InternVL2.5-8B": 64.8, "ELAM-7B": 78.2},
            unit="%",
            needs=_WEIGHTS,
        ),
        Claim(
            id="screenspot",
            says=(
                "On ScreenSpot, another domain, the average rises by 5.2 points to 80.4 % (version 1) or by 5.6 points "
                "to 80.8 % (version 3)."
            ),
            source="abstract of versions 1 and 3 (the baseline follows from the differences)",
            paper_value={
                "Molmo-7B-D": 75.2,
                "ELAM-7B, version 1": 80.4,
                "gain, version 1": 5.2,
                "ELAM-7B, version 3": 80.8,
                "gain, version 3": 5.6,
            },
            unit="%",
            needs="ELAM-7B weights and ScreenSpot",
        ),
        Claim(
            id="gain-over-molmo",
            says="Gains over Molmo on the benchmark are between 6.1 and 16.3 points.",
            source="secondary summary, consistent with the model card",
            paper_value={"least": 6.1, "most": 16.3},
            unit="points",
            needs=_WEIGHTS,
            confirmed=False,
        ),
        Claim(
            id="adaptation-helps",
            says=(
                "Adapting a general grounder to the automotive domain with LoRA raises action grounding and "
                "result evaluation by at least 0.15 (15 points)."
            ),
            source="ordering of the benchmark, on rendered interfaces",
            unit="share",
            holds=lambda m: (
                m["grounding, LoRA"] - m["grounding, zero-shot"] >= 0.15
                and m["evaluation, LoRA"] - m["evaluation, zero-shot"] >= 0.15
            ),
        ),
        Claim(
            id="lora-is-enough",
            says="LoRA reaches at least 80 % of full fine-tuning's grounding with under 10 % of the parameters.",
            source="abstract (LoRA is enough), on rendered interfaces",
            unit="share",
            holds=lambda m: m["grounding, LoRA"] >= 0.8 * m["grounding, full"] and m["parameters"] < 0.1,
        ),
        Claim(
            id="cross-domain-gain",
            says="Adapted to automotive screens the model also points better on another domain, not trained for.",
            source="abstract, on a third rendered domain",
            unit="share",
            holds=lambda m: m["adapted"] > m["before"],
        ),
        Claim(
            id="benchmark-size",
            says="AutomotiveUI-Bench-4K has 998 images with 4,208 annotations.",
            source="abstract",
            paper_value={"images": 998, "annotations": 4208},
            needs="AutomotiveUI-Bench-4K (2.5 GB)",
        ),
        Claim(
            id="consumer-gpu",
            says="The 7B model runs on a consumer GPU: its weights take about 6 GB in 4 bits and 16 GB in bf16.",
            source="model card",
            paper_value={"4 bits": 6, "bf16": 16},
            unit="GB",
            needs="ELAM-7B weights",
        ),
        Claim(
            id="source-domain-is-forgotten",
            says=(
                "At small scale the adapted model grounds worse on its source domain than before, after LoRA and after "
                "full fine-tuning, unlike the paper's gain on ScreenSpot."
            ),
            source="our pilot on rendered interfaces",
            unit="share",
            holds=lambda m: max(m["after LoRA"], m["after full"]) < m["before"],
            kind="finding",
        ),
    ),
)
