"""Language model compression with weighted low-rank factorization (FWSVD)."""

from fullrank.papers import Claim, Paper

_BERT = "BERT-base weights and GLUE"
_LLAMA = "LLaMA weights"

PAPER = Paper(
    slug="fwsvd",
    title="Language model compression with weighted low-rank factorization",
    authors=6,
    published="2022-06-30",
    arxiv="2207.00112",
    position=6,
    venue="ICLR 2022",
    topics=(
        "compression",
        "language",
    ),
    summary=(
        "Plain SVD compression minimises weight error although some weights matter far more to the task. "
        "Fisher-weighted SVD scales the rows of each matrix by the square root of their summed squared "
        "gradients before factorising and undoes the scaling after. Task accuracy stays close to the original "
        "even though reconstruction gets worse, and already compact models still lose 9-30 % of their "
        "parameters."
    ),
    notes=(
        "There is no official code. The paper weights rows by the Fisher information of the input side; the "
        "two-sided form and activation whitening are stronger at equal size on the data here, and on large "
        "language models whitening is far stronger. Fisher information needs per-sample gradients: squares of "
        "mini-batch gradients are something else."
    ),
    claims=(
        Claim(
            id="closer-than-svd",
            says=(
                "After compression without fine-tuning, Fisher weighting stays much closer to the original's "
                "quality than plain SVD."
            ),
            source="abstract",
            unit="Spearman x 100",
            holds=lambda m: m["FWSVD"] > m["SVD"],
        ),
        Claim(
            id="compact-models",
            says=(
                "From compact pre-trained models 9 % to 30 % more parameters can be removed without significant loss."
            ),
            source="abstract",
            paper_value="9 to 30",
            unit="% parameters",
            needs="compact BERT models (DistilBERT, MiniLMv2) fine-tuned on GLUE",
        ),
        Claim(
            id="no-pretraining-needed",
            says="Task-specific compression reaches what strategies with a pre-trained compact model reach.",
            source="abstract",
            needs=_BERT,
        ),
        Claim(
            id="glue-no-finetuning",
            says=(
                "GLUE average of BERT-base at 66.5 M of 109.5 M parameters, not fine-tuned: 59.4 against 42.9 "
                "for SVD (original 84.1)."
            ),
            source="recalled from Table 1",
            paper_value={"SVD": 42.9, "FWSVD": 59.4, "original": 84.1},
            unit="%",
            needs=_BERT,
            confirmed=False,
        ),
        Claim(
            id="glue-finetuned",
            says="The same after fine-tuning: 82.2 against 80.1 for SVD, 81.9 for DistilBERT and MiniLMv2.",
            source="recalled",
            paper_value={"SVD": 80.1, "DistilBERT": 81.9, "MiniLMv2": 81.9, "FWSVD": 82.2},
            unit="%",
            needs=_BERT,
            confirmed=False,
        ),
        Claim(
            id="conll-ner",
            says="CoNLL-2003 entity F1: 49.6 without and 93.2 with fine-tuning, SVD 12.0 and 92.4 (original 94.1).",
            source="recalled",
            paper_value={"SVD raw": 12.0, "SVD tuned": 92.4, "FWSVD raw": 49.6, "FWSVD tuned": 93.2, "original": 94.1},
            unit="F1",
            needs=_BERT,
            confirmed=False,
        ),
        Claim(
            id="llama-perplexity",
            says=(
                "LLaMA-7B with 20 % removed, WikiText-2 perplexity: SVD 20061, FWSVD 1727, ASVD 11.14, SVD-LLM "
                "7.94 (dense 5.68)."
            ),
            source="a rival's paper",
            paper_value={"dense": 5.68, "SVD": 20061.0, "FWSVD": 1727.0, "ASVD": 11.14, "SVD-LLM": 7.94},
            unit="perplexity",
            needs=_LLAMA,
            confirmed=False,
        ),
        Claim(
            id="gfwsvd",
            says=(
                "Generalised Fisher weighting is 5 points above FWSVD on MMLU at 20 % (3 above SVD-LLM, 6 above ASVD)."
            ),
            source="a rival's abstract",
            paper_value={"over FWSVD": 5.0, "over SVD-LLM": 3.0, "over ASVD": 6.0},
            unit="points",
            needs=_LLAMA,
        ),
        Claim(
            id="plain-error-is-larger",
            says=(
                "In every layer FWSVD's plain reconstruction error is at least that of SVD: the gain is in the "
                "loss, not in the weights."
            ),
            source="theorem behind the method",
            holds=lambda smallest_difference: smallest_difference >= -1e-6,
        ),
        Claim(
            id="whitening-is-level-or-better",
            says="Activation whitening is as good as FWSVD or better at ratios of 0.6 and below.",
            source="our pilot on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["whitening"] >= m["FWSVD"],
            kind="finding",
        ),
        Claim(
            id="two-sided-is-better",
            says="Weighting both sides beats weighting the input side alone.",
            source="our pilot on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["both sides"] > m["input side"],
            kind="finding",
        ),
    ),
)
