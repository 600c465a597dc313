"""Talking Heads: Understanding Inter-layer Communication in Transformer Language Models (Talking Heads)."""

from fullrank.papers import Claim, Paper

_GPT2 = "GPT-2 small or Pythia-160m weights"

PAPER = Paper(
    slug="talking-heads",
    title="Talking Heads: Understanding Inter-layer Communication in Transformer Language Models",
    authors=3,
    published="2024-06-13",
    arxiv="2406.09519",
    position=22,
    venue="NeurIPS 2024",
    topics=(
        "explanation",
        "attention",
    ),
    summary=(
        "Early attention heads write features into narrow subspaces of the residual stream that particular "
        "later heads read. An SVD of head weights finds these channels without running the model. Editing one "
        "or two components changes how the model recalls an item from a list and lifts accuracy on a laundry-"
        "list task by over 20 points."
    ),
    notes=(
        "The official repository holds no code. Scores use folded layer norms and raw weights; the component "
        "score's squares average to the head's score exactly."
    ),
    claims=(
        Claim(
            id="laundry-list",
            says="Editing the inhibition subspace improves GPT-2 on long laundry lists by over 20 points.",
            source="abstract",
            paper_value=20.0,
            unit="points",
            needs=_GPT2,
        ),
        Claim(
            id="edits-help",
            says=(
                "A subspace edit chosen on development prompts beats the unedited model beyond its training "
                "length; random directions do not."
            ),
            source="the laundry list experiment, at small scale",
            unit="points",
            holds=lambda m: m["edited"] > m["unedited"] and m["random"] <= m["edited"],
        ),
        Claim(
            id="components-show-what-heads-hide",
            says="Head pairs known to talk stand out in the component score and not in the head score (IOI).",
            source="abstract and Figure 2",
            needs=_GPT2,
        ),
        Claim(
            id="inhibition-is-concentrated",
            says="A head's inhibition is concentrated in one or two components.",
            source="Figure 2",
            needs=_GPT2,
        ),
        Claim(
            id="index-subspace",
            says="The subspace that indexes list positions has three dimensions.",
            source="abstract of version 2",
            paper_value=3,
            unit="dimensions",
            needs=_GPT2,
        ),
        Claim(
            id="accuracies-by-length",
            says="Accuracies by list length.",
            source="paper, numbers not confirmed",
            needs=_GPT2,
            confirmed=False,
        ),
        Claim(
            id="composition-finds-induction",
            says="Previous-token heads rank first as sources of key composition into induction heads.",
            source="premise of composition scores",
            unit="share of seeds",
            holds=lambda share: share == 1,
        ),
        Claim(
            id="component-score-predicts-damage",
            says="A component's score to the induction head predicts how much removing it hurts.",
            source="premise of component scores",
            unit="Spearman rho",
            holds=lambda rho: rho >= 0.3,
        ),
        Claim(
            id="channels-in-an-encoder",
            says=(
                "An encoder has low-rank channels too: its largest component score exceeds its largest head "
                "score, and that three times the random maximum."
            ),
            source="our run on all-MiniLM-L6-v2",
            holds=lambda m: m["largest component score"] > m["largest head score"] > 3 * m["largest random head score"],
            kind="finding",
        ),
    ),
)
