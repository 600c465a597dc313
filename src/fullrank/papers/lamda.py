"""LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation (LaMDA, LaMDA++)."""

from fullrank.papers import Claim, Paper

_LLM = "the paper's language models and task sets on GPUs"

PAPER = Paper(
    slug="lamda",
    title="LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation",
    authors=3,
    published="2024-06-18",
    arxiv="2406.12832",
    position=32,
    repository="https://github.com/ArminAzizi98/LaMDA",
    venue="Findings of EMNLP 2024",
    topics=(
        "adapters",
        "language",
    ),
    summary=(
        "LaMDA puts a small trainable square matrix between two projections taken from the SVD of the "
        "pretrained weight; the first is frozen, the second is frozen step by step early in training. "
        "Parameters and activation memory fall well below LoRA. A variant spreads rank over layers by their "
        "spectra."
    ),
    notes=(
        "The official start differs from the paper's and leaves the base weight unchanged only in the residual "
        "form, which is our default. The ratio of trained parameters is the maximum over the authors' settings,"
        " at the end of training; the memory ratio is of the whole process. On an easy task LoRA of rank 1 is "
        "as accurate: the case for LaMDA is memory, and size that does not grow with width."
    ),
    claims=(
        Claim(
            id="matches-lora",
            says="LaMDA matches or surpasses LoRA and other methods on GLUE, summarisation, generation and reasoning.",
            source="abstract",
            needs=_LLM,
        ),
        Claim(
            id="fewer-updates",
            says="Up to 17.7 times fewer parameters are updated than with LoRA.",
            source="abstract",
            paper_value=17.7,
            unit="times",
            holds=lambda m: m["LLaMA-7B square layers"] >= 17.7,
        ),
        Claim(
            id="less-memory",
            says="Peak GPU memory in fine-tuning falls by up to 1.32 times.",
            source="abstract",
            paper_value=1.32,
            unit="times",
            needs="a GPU and a language model of over a billion parameters",
        ),
        Claim(
            id="tables",
            says=(
                "GSM8K and WikiText-2 (LLaMA-2-7B), XSum and CNN/DailyMail (BART-large), GLUE (DeBERTa-v3-base)"
                " against LoRA, AdaLoRA, LoRA-FA and VeRA."
            ),
            source="tables, not readable",
            needs=_LLM,
            confirmed=False,
        ),
        Claim(
            id="level-at-small-scale",
            says="With a third of the parameters LaMDA is within a point of LoRA.",
            source="ordering of the abstract",
            unit="points",
            holds=lambda m: m["LoRA"] - m["LaMDA"] <= 1,
        ),
        Claim(
            id="spectral-start-matters",
            says=(
                "The residual spectral start beats the official start, and gradual freezing beats freezing at "
                "once, by at least 3 points."
            ),
            source="method",
            unit="points",
            holds=lambda m: m["LaMDA"] - m["official start"] >= 3 and m["LaMDA"] - m["frozen at once"] >= 3,
        ),
        Claim(
            id="rank-allocation",
            says="LaMDA++ with ranks allotted by spectrum is at least as good as uniform ranks of the same sum.",
            source="method",
            unit="points",
            holds=lambda m: m["allotted"] >= m["uniform"] - 0.3,
        ),
        Claim(
            id="activation-memory",
            says=(
                "Activations kept for the backward pass of the adapter path shrink at least 8 times against "
                "LoRA of equal rank."
            ),
            source="method",
            unit="times",
            holds=lambda ratio: ratio >= 8,
        ),
        Claim(
            id="rank-1-lora-is-as-good",
            says="On an easy task LoRA of rank 1, with fewer parameters, is as accurate.",
            source="our pilot on TREC with MiniLM",
            unit="points",
            holds=lambda m: m["LoRA r=1"] >= m["LaMDA"] - 1,
            kind="finding",
        ),
    ),
)
