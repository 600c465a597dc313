"""X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large Language Models with Applications in
Protein Mechanics and Design (X-LoRA).
"""

from fullrank.papers import Claim, Paper

_ZEPHYR = "Zephyr-7B weights and the authors' nine experts"

PAPER = Paper(
    slug="x-lora",
    title=(
        "X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large Language Models with "
        "Applications in Protein Mechanics and Design"
    ),
    authors=2,
    published="2024-02-11",
    arxiv="2402.07148",
    position=12,
    repository="https://github.com/EricLBuehler/xlora",
    venue="APL Machine Learning, 2024",
    topics=(
        "adapters",
        "language",
    ),
    summary=(
        "X-LoRA freezes a language model and a set of LoRA experts and trains only a small head that reads "
        "hidden states and mixes the experts per token and per layer. Each input is run twice: once to compute "
        "the mixing weights, once with them. It is shown for protein mechanics and design together with general"
        " science questions."
    ),
    notes=(
        "The abstract has no numbers. The implementation in PEFT loses the gate on saving, fails on GPT-2 and "
        "BERT and with gradient checkpointing; ours is built over PEFT's LoRA layers and reads both checkpoint "
        "layouts."
    ),
    claims=(
        Claim(
            id="dynamic-mixing",
            says=(
                "Frozen LoRA experts are mixed anew for every token and layer, on any language model, without "
                "structural change."
            ),
            source="abstract",
            holds=lambda m: m["X-LoRA"] < m["uniform"] < m["base"],
        ),
        Claim(
            id="not-worse-anywhere",
            says=(
                "The mixture is not worse than the base model on any domain, and better than the best single "
                "expert on the mixture."
            ),
            source="the paper's argument",
            holds=lambda m: m["largest loss over base"] <= 0 and m["X-LoRA"] < m["best single expert"],
        ),
        Claim(
            id="gate-finds-the-domain",
            says="The gate's choice agrees with the true domain above chance, and switches inside a mixed document.",
            source="the paper's argument",
            holds=lambda m: m["agreement"] > m["chance"] and m["switches"] > 0.5,
        ),
        Claim(
            id="protein-mechanics",
            says=(
                "It predicts protein mechanics quantitatively (R2 = 0.85 in a forward task) and reasons over "
                "the results."
            ),
            source="abstract; number from a secondary summary",
            paper_value=0.85,
            unit="R2",
            needs=_ZEPHYR,
            confirmed=False,
        ),
        Claim(
            id="knowledge-recall",
            says="Knowledge recall in biology, materials and mechanics improves over Zephyr and larger models.",
            source="secondary summary",
            needs=_ZEPHYR,
            confirmed=False,
        ),
        Claim(
            id="gate-only",
            says="Only the gate is trained, a small part of full fine-tuning.",
            source="derived from the method",
            unit="share",
            holds=lambda share: share < 0.1,
        ),
        Claim(
            id="oracle-is-out-of-reach",
            says="A short training of the gate leaves most of the gap between uniform mixing and the oracle open.",
            source="our pilot with a small language model",
            unit="share of the gap",
            holds=lambda share: share < 0.9,
            kind="finding",
        ),
    ),
)
