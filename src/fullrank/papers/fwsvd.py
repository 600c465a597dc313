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
        "There is no official code, and only the abstract could be confirmed; the table values are recalled. The "
        "equation squares the gradients of single samples in evaluation mode; the public re-implementations square "
        "mini-batch gradients and measure while training, which is offered as an option. Weights belong to input "
        "features. Weighting both sides, and whitening by activations, are stronger at equal size on the data here, "
        "and on large language models whitening is far stronger."
    ),
    claims=(
        Claim(
            id="closer-than-svd",
            says=(
                "After compression without fine-tuning, Fisher weighting stays much closer to the original's "
                "quality than plain SVD (here at 60 % and 50 % of the linear layers' parameters)."
            ),
            source="abstract",
            unit="Spearman x 100",
            holds=lambda m: m["FWSVD 0.6"] > m["SVD 0.6"] and m["FWSVD 0.5"] > m["SVD 0.5"],
        ),
        Claim(
            id="closer-than-svd-finetuned",
            says="At half of the linear parameters FWSVD is still ahead of plain SVD after a short fine-tuning.",
            source="abstract, and an ordering recalled from Table 1",
            unit="Spearman x 100",
            holds=lambda m: m["FWSVD"] > m["SVD"],
            confirmed=False,
        ),
        Claim(
            id="closer-than-svd-classification",
            says="A compressed sentence classifier keeps more accuracy with FWSVD than with plain SVD.",
            source="abstract (task accuracy), at small scale",
            unit="%",
            holds=lambda m: m["FWSVD"] > m["SVD"],
        ),
        Claim(
            id="compact-encoder",
            says=(
                "From MiniLM, a compact encoder of 22.7 M parameters, at least 9 % of all parameters can be removed at "
                "a cost of at most one point."
            ),
            source="abstract (9 % to 30 % from compact models), at small scale",
            unit="Spearman x 100, and % of parameters",
            holds=lambda m: m["removed"] >= 9 and m["dense"] - m["FWSVD"] <= 1,
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
            says=(
                "Compressing a task-specific model beats strategies that pre-train a compact model, without any "
                "pre-training."
            ),
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
            says=(
                "GLUE average at the same size after fine-tuning: 82.2 against 80.1 for SVD; DistilBERT and MiniLMv2 "
                "with 67.0 M parameters reach 81.9."
            ),
            source="recalled",
            paper_value={"SVD": 80.1, "DistilBERT": 81.9, "MiniLMv2": 81.9, "FWSVD": 82.2},
            unit="%",
            needs=_BERT,
            confirmed=False,
        ),
        Claim(
            id="conll-ner",
            says=(
                "Entity recognition F1 on CoNLL-2003 is 49.6 without and 93.2 with fine-tuning, that of SVD 12.0 and "
                "92.4 (original 94.1)."
            ),
            source="recalled",
            paper_value={"SVD raw": 12.0, "SVD tuned": 92.4, "FWSVD raw": 49.6, "FWSVD tuned": 93.2, "original": 94.1},
            unit="F1",
            needs="BERT-base weights and CoNLL-2003",
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
            kind="finding",
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
            kind="finding",
        ),
        Claim(
            id="plain-error-is-larger",
            says=(
                "In every layer FWSVD's plain reconstruction error is at least that of SVD: the gain is in the "
                "loss, not in the weights."
            ),
            source="abstract",
            unit="smallest difference of relative errors",
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
            says="Weighting both sides keeps more quality than weighting the input side alone, as the paper does.",
            source="our pilot on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["both sides"] > m["input side"],
            kind="finding",
        ),
        Claim(
            id="input-side-is-right",
            says="Of the two one-sided forms, weighting input features keeps more quality than weighting outputs.",
            source="our pilot on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["input side"] > m["output side"],
            kind="finding",
        ),
        Claim(
            id="whitening-wins-on-causal-models",
            says="In a causal language model whitening by activations has a lower perplexity than FWSVD at equal size.",
            source="the rivals' results on LLaMA, at small scale",
            unit="perplexity",
            holds=lambda m: m["whitening"] < m["FWSVD"],
            kind="finding",
        ),
        Claim(
            id="svd-llm-rerun-by-users",
            says=(
                "Users of SVD-LLM report WikiText-2 perplexities of 14.0 to 14.8 instead of 11.82 for Llama-3-8B at "
                "20 %, so a rival's number should be run again before it is quoted."
            ),
            source="issue 34 of the SVD-LLM repository",
            paper_value={"published": 11.82, "users, low": 14.0, "users, high": 14.8},
            unit="perplexity",
            needs=_LLAMA,
            confirmed=False,
            kind="finding",
        ),
    ),
)
