"""DQ-LoRe: Dual Queries with Low Rank Approximation Re-ranking for In-Context Learning (DQ-LoRe)."""

from fullrank.papers import Claim, Paper

_GPT = "the commercial language models of the paper"

PAPER = Paper(
    slug="dq-lore",
    title="DQ-LoRe: Dual Queries with Low Rank Approximation Re-ranking for In-Context Learning",
    authors=13,
    published="2023-10-04",
    arxiv="2310.02954",
    position=5,
    repository="https://github.com/AI4fun/DQ-LoRe",
    venue="ICLR 2024",
    topics=(
        "retrieval",
        "language",
    ),
    summary=(
        "Good in-context examples for reasoning should match the reasoning, not only the question. DQ-LoRe asks"
        " the model for a first chain of thought, retrieves with question plus thought through a trained "
        "encoder, then projects the candidates to a few principal components and ranks again to drop redundant "
        "similarity. GPT-4 gains from 92.5 % to 94.2 % in the reported setting, more under distribution shift."
    ),
    notes=(
        "The official projection takes the first coordinates of the singular vectors as if they were the items, so its "
        "scores flip with the signs of the vectors; ours follows the paper. The code keeps 128 components of 16 "
        "candidates, where reduction drops nothing and the order is that of centred inner products; a low-rank effect "
        "needs fewer components than candidates. Its training scores leave out the reference solution and are sorted "
        "in ascending order, and its accuracy divides by the parsable answers only. Embeddings are not normalised; on "
        "normalised ones re-ranking changes little."
    ),
    claims=(
        Claim(
            id="gsm8k-gpt4",
            says="With GPT-4 on GSM8K accuracy rises from 92.5 % (CEIL, the best retrieval baseline) to 94.2 %.",
            source="abstract (that the baseline is CEIL: a secondary summary of Table 2)",
            paper_value={"CEIL": 92.5, "DQ-LoRe": 94.2},
            unit="%",
            needs=_GPT,
        ),
        Claim(
            id="svamp-shift",
            says="Trained on GSM8K and tested on SVAMP, GPT-3.5-turbo reaches 90.0 %, clearly above EPR and CEIL.",
            source="secondary summary",
            paper_value=90.0,
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="gsm8k-aqua-best",
            says="DQ-LoRe is the best of EPR, CEIL, Auto-CoT and Complex-CoT on GSM8K and AQUA.",
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="svamp-iid-epr",
            says="On SVAMP itself EPR is better than DQ-LoRe, because of word overlap.",
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="farthest-exemplars",
            says="With the eight farthest exemplars text-davinci-003 reaches only 48.1 % on GSM8K.",
            source="secondary summary",
            paper_value=48.1,
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="initial-exemplars",
            says=(
                "As initial exemplars random is below Complex-CoT, which is below Socratic-CoT; EPR and CEIL "
                "beat random."
            ),
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="gsm8k-gpt35",
            says=(
                "With gpt-3.5-turbo-16k on GSM8K DQ-LoRe reaches 80.7 % (CoT 77.0, Complex-CoT 79.3, EPR 77.3, "
                "CEIL 79.4)."
            ),
            source="recalled",
            paper_value={"CoT": 77.0, "Complex-CoT": 79.3, "EPR": 77.3, "CEIL": 79.4, "DQ-LoRe": 80.7},
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="dual-query",
            says=(
                "A query of question and draft solution finds more useful exemplars than the question alone, "
                "and both more than chance."
            ),
            source="abstract, with overlap of arithmetic operators as stand-in for usefulness",
            unit="operator similarity",
            holds=lambda m: m["dual"] > m["question"] > m["random"],
        ),
        Claim(
            id="lore-on-raw-embeddings",
            says=(
                "On unnormalised embeddings low-rank re-ranking finds more useful exemplars than the plain "
                "inner product."
            ),
            source="abstract, with overlap of arithmetic operators as stand-in for usefulness",
            unit="operator similarity",
            holds=lambda m: m["LoRe"] > m["inner product"],
        ),
        Claim(
            id="lore-on-a-cone",
            says=(
                "Where all embeddings share one dominant direction LoRe recovers the true neighbours and the "
                "plain inner product stays near chance."
            ),
            source="abstract, on synthetic candidates",
            unit="recall, 8 of 64",
            holds=lambda m: m["LoRe"] >= 0.9 and m["inner product"] <= 0.3,
        ),
        Claim(
            id="normalised-hardly-gain",
            says="On normalised vectors LoRe changes little.",
            source="our pilot on GSM8K with MiniLM",
            unit="operator similarity",
            holds=lambda m: abs(m["LoRe"] - m["inner product"]) < 0.01,
            kind="finding",
        ),
        Claim(
            id="training-helps",
            says="The retriever trained by contrast finds more useful exemplars than the untrained encoder.",
            source="abstract (trained retriever), with operator similarity in place of a language model's score",
            unit="operator similarity",
            holds=lambda m: m["trained"] > m["untrained"],
        ),
        Claim(
            id="likelihood-order",
            says=(
                "The likelihood of the reference solution given the eight exemplars rises from random over BM25, EPR "
                "and the dual query to the dual query with LoRe."
            ),
            source="ordering of the results on GSM8K (secondary summary)",
            unit="log-likelihood per token",
            holds=lambda m: m["random"] < m["BM25"] < m["EPR"] < m["dual"] < m["dual + LoRe"],
            confirmed=False,
        ),
        Claim(
            id="likelihood-under-shift",
            says=(
                "With the retriever trained on GSM8K, exemplars for SVAMP make the reference solution more likely when "
                "chosen by the dual query with LoRe than by EPR or CEIL."
            ),
            source="ordering of the results under shift (secondary summary)",
            unit="log-likelihood per token",
            holds=lambda m: m["dual + LoRe"] > max(m["EPR"], m["CEIL"]),
            confirmed=False,
        ),
        Claim(
            id="many-components-only-centre",
            says=(
                "With at least as many components as candidates, as in the official code (128 of 16), LoRe gives "
                "exactly the order of centred inner products."
            ),
            source="rank of the centred matrix",
            unit="share of equal orders",
            holds=lambda share: share == 1.0,
            kind="finding",
        ),
        Claim(
            id="official-projection-depends-on-signs",
            says=(
                "The official projection's order changes when singular vectors change their arbitrary sign; the "
                "paper's does not."
            ),
            source="official code",
            unit="share of queries whose order changes",
            holds=lambda m: m["official"] > 0 and m["paper"] == 0,
            kind="finding",
        ),
    ),
)
