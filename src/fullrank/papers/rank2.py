"""Multi-Step Knowledge Interaction Analysis via Rank-2 Subspace Disentanglement (rank-2 knowledge subspaces)."""

from fullrank.papers import Claim, Paper

_LLM = "Llama-3.1-8B-Instruct, gemma-2-9b-it or Mistral-7B-Instruct weights and the four question-answering sets"

PAPER = Paper(
    slug="rank2",
    title="Multi-Step Knowledge Interaction Analysis via Rank-2 Subspace Disentanglement",
    authors=3,
    published="2025-11-03",
    arxiv="2511.01706",
    position=1,
    repository="https://github.com/copenlu/pk-ck-knowledge-disentanglement",
    comments=1,
    topics=(
        "explanation",
        "language",
    ),
    summary=(
        "When a language model explains its answer it mixes what it remembers with what the prompt says, and "
        "one direction in hidden space cannot show both at once. The paper fits a two-dimensional subspace "
        "whose axes are parametric and contextual knowledge and follows each generated token in it, on four QA "
        "sets and three open models. Invented explanations lean on the memory axis, faithful ones are balanced,"
        " and chain-of-thought moves them toward the context."
    ),
    notes=(
        "The training loop that uses two sources is not published, so the loss is rebuilt from the fields of the "
        "data. The official scripts analyse states after the last layer although the subspace is trained in a middle "
        "one; ours analyses the trained layer and offers the other. Shares of magnitude along the two axes are not "
        "calibrated: with a trained basis the memory axis can be larger where the context won, so signed and centred "
        "coordinates belong beside them. Axis-wise patching with a rank-2 basis intervenes less strongly than the "
        "rank-1 subspace; it describes better."
    ),
    claims=(
        Claim(
            id="rank-2-separates",
            says=(
                "A rank-2 subspace separates the types of knowledge interaction that a rank-1 subspace confuses "
                "(tested as macro-F1 of a nearest-neighbour classifier in a small model)."
            ),
            source="abstract",
            unit="macro-F1",
            holds=lambda m: m["rank 2"] - m["rank 1"] >= 0.03,
        ),
        Claim(
            id="rank-2-separates-large-models",
            says=(
                "On StrategyQA, BaseFakepedia, MultiHopFakepedia and OpenBookQA with three open models, rank-1 "
                "coordinates of the interaction types overlap and rank-2 coordinates separate."
            ),
            source="abstract",
            needs=_LLM,
        ),
        Claim(
            id="alignment-of-interactions",
            says=(
                "Supportive interactions lie along parametric knowledge, conflicting ones along contextual knowledge."
            ),
            source="abstract of version 2",
            needs=_LLM,
        ),
        Claim(
            id="alignment-small-model",
            says=(
                "The parametric share is above one half for supportive samples and below it for conflicts that the "
                "context wins."
            ),
            source="abstract of version 2, at toy scale",
            unit="parametric share",
            holds=lambda m: m["supportive"] > 0.5 > m["conflict, context won"],
        ),
        Claim(
            id="hallucination-along-memory",
            says=(
                "Hallucinated generations align with parametric knowledge, faithful ones are balanced "
                "(RAGTruth, Dolly)."
            ),
            source="abstract",
            needs="Llama-3.1-8B-Instruct weights, RAGTruth and Dolly",
        ),
        Claim(
            id="violated-context-along-memory",
            says=(
                "Generated explanations that violate a fact of the context have the higher parametric share, and "
                "faithful ones lie nearer to an even share."
            ),
            source="abstract, with violated context facts as stand-in for hallucinations",
            unit="parametric share",
            holds=lambda m: m["violating"] > m["faithful"] and abs(m["faithful"] - 0.5) < abs(m["violating"] - 0.5),
        ),
        Claim(
            id="cot-shifts-to-context",
            says="Chain of thought moves explanations toward contextual knowledge and away from parametric knowledge.",
            source="abstract of version 1",
            needs=_LLM,
        ),
        Claim(
            id="explained-variance",
            says="Two components hold at least 90 % of the variance between conditions, one component less.",
            source="our toy model",
            holds=lambda m: m["rank 2"] >= 0.9 and m["rank 1"] < m["rank 2"] and m["p of second"] < 0.05,
            kind="finding",
        ),
        Claim(
            id="three-conditions-prove-nothing",
            says=(
                "With three prompt conditions, as in the official plot, two components hold all of the variance by "
                "construction; only four or more conditions give evidence for rank 2."
            ),
            source="official code, and our toy model with 15 conditions",
            unit="share of variance",
            holds=lambda m: abs(m["3 conditions"] - 1) <= 1e-6 and m["15 conditions"] < 1 - 1e-6,
            kind="finding",
        ),
        Claim(
            id="rank-2-beats-random",
            says="The trained rank-2 basis separates the interaction types better than a random rank-2 basis.",
            source="our toy model",
            unit="macro-F1",
            holds=lambda m: m["trained"] > m["random"],
            kind="finding",
        ),
        Claim(
            id="conflict-winners-differ",
            says="With the trained basis the two kinds of conflict differ clearly in their parametric share.",
            source="our toy model",
            unit="parametric share",
            holds=lambda m: abs(m["memory won"] - m["context won"]) >= 0.1,
            kind="finding",
        ),
        Claim(
            id="final-layer-separates-less",
            says=(
                "The states after the last layer, which the official scripts analyse, separate the interaction types "
                "less well than those of the middle layer where the subspace is trained."
            ),
            source="our toy model",
            unit="macro-F1",
            holds=lambda m: m["trained layer"] > m["final layer"],
            kind="finding",
        ),
        Claim(
            id="shares-are-not-calibrated",
            says=(
                "Magnitude shares along the axes do not tell which knowledge won: the memory share is not "
                "higher where memory won."
            ),
            source="our toy model",
            unit="parametric share",
            holds=lambda m: m["context won"] >= m["memory won"],
            kind="finding",
        ),
        Claim(
            id="rank-1-intervenes-better",
            says="Patching the rank-1 subspace changes answers more often than patching one axis of the rank-2 basis.",
            source="our toy model",
            unit="interchange accuracy",
            holds=lambda m: (
                m["rank 1, memory"] > m["rank 2 axis, memory"] and m["rank 1, context"] > m["rank 2 axis, context"]
            ),
            kind="finding",
        ),
    ),
)
