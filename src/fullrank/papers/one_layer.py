"""Filtering with Self-Attention and Storing with MLP: One-Layer Transformers Can Provably Acquire and Extract
Knowledge (knowledge in one-layer transformers).
"""

from fullrank.papers import Claim, Paper

PAPER = Paper(
    slug="one-layer",
    title=(
        "Filtering with Self-Attention and Storing with MLP: One-Layer Transformers Can Provably Acquire and "
        "Extract Knowledge"
    ),
    authors=2,
    published="2025-07-28",
    arxiv="2508.00901",
    position=21,
    topics=(
        "explanation",
        "language",
    ),
    summary=(
        "A theory of how transformers store and recall facts, for a single layer with attention and an MLP: "
        "attention picks the relevant tokens, the MLP stores the association. It proves near-optimal "
        "pretraining loss, good extraction after fine-tuning when there are enough and repeated data, and "
        "hallucination otherwise, for full and low-rank fine-tuning. Synthetic data and PopQA with GPT-2 and "
        "Llama-3.2-1B agree."
    ),
    notes=(
        "The full text could not be read; the setting is a reconstruction from the abstracts and a summary. "
        "With four families of facts a rank-1 adapter cannot fit the fine-tuning set; rank at least the number "
        "of families does."
    ),
    claims=(
        Claim(
            id="mlp-is-needed",
            says=(
                "With an MLP pre-training is learned to near optimum, attention alone may fail to acquire or "
                "extract facts."
            ),
            source="abstract of version 1",
            unit="accuracy",
            holds=lambda m: m["attention only"] <= 0.75 and m["attention and MLP"] >= 0.99,
        ),
        Claim(
            id="hallucination-conditions",
            says=(
                "With many fine-tuned facts and many phrasings the error on facts not revisited is low; with "
                "few it is high."
            ),
            source="abstract",
            unit="accuracy",
            holds=lambda m: m["M=1"] < m["M=3"] < m["M=8"] and m["N_f=2"] < m["N_f=8"] < m["N_f=24"],
        ),
        Claim(
            id="low-rank-fine-tuning",
            says="Low-rank fine-tuning behaves like full fine-tuning.",
            source="abstract",
            unit="accuracy",
            holds=lambda m: m["rank 4"] >= m["full"] - 0.05,
        ),
        Claim(
            id="error-bound",
            says="The error falls as exp(-N_f K^2 log R / 2 R^2).",
            source="summary, constants not confirmed",
            unit="Spearman rho",
            holds=lambda rho: rho >= 0.7,
            confirmed=False,
        ),
        Claim(
            id="popqa",
            says="PopQA with GPT-2 and Llama-3.2-1B shows the same trends.",
            source="abstract, numbers not confirmed",
            needs="GPT-2 or Llama weights and PopQA",
            confirmed=False,
        ),
        Claim(
            id="attention-filters",
            says="After pre-training attention puts its weight on subject and template and filters noise.",
            source="the paper's title",
            unit="times the uniform share",
            holds=lambda ratio: ratio >= 1.4,
        ),
        Claim(
            id="more-templates-do-not-help",
            says="At fixed phrasing multiplicity more templates do not help, they dilute.",
            source="our reconstruction",
            unit="accuracy",
            holds=lambda m: m["48 templates"] <= m["12 templates"],
            kind="finding",
        ),
        Claim(
            id="rank-of-families",
            says="A rank-1 adapter cannot fit four families of facts, a rank of the number of families can.",
            source="our reconstruction",
            unit="training accuracy",
            holds=lambda m: m["rank 1"] < 0.9 and m["rank = families"] >= 0.99,
            kind="finding",
        ),
    ),
)
