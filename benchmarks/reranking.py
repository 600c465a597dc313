"""Re-ranking with one cross-encoder against a loop per query and other libraries; and what is computed once.

The libraries are `rerankers` and sentence-transformers.

The model has the size of MiniLM-L6 (6 layers, width 384) with random weights, saved to a temporary folder and loaded by
everyone. Passages have 10 to 250 words. Targets: 1.3 times a loop that scores query by query in the order given.

    python benchmarks/reranking.py                  everything
    python benchmarks/reranking.py cross_encoder    one comparison
"""

from __future__ import annotations

import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from _timing import alternate, run_named, show
from fullrank.search import Document, PointwiseReranker, rerank_run
from fullrank.search.model_scorers import CrossEncoderScorer
from fullrank.search.pairwise_prompts import LikelihoodComparison
from fullrank.search.query_likelihood import QueryLikelihoodScorer

QUERIES, CANDIDATES, BATCH = 8, 20, 16
WORDS = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
Scores = dict[str, list[float]]


def lists() -> tuple[dict[str, str], dict[str, list[Document]]]:
    """Queries, and passages of very different length for each."""
    rng = np.random.default_rng(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(least, most + 1)))

    queries = {f"q{number}": text(3, 10) for number in range(QUERIES)}
    found = {q: [Document(f"{q}d{place}", text(10, 250)) for place in range(CANDIDATES)] for q in queries}
    return queries, found


def tokenizer() -> Any:
    """Of whole words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", "▁false", "▁true", "A", "B", *string.punctuation]
    vocabulary = {word: number for number, word in enumerate([*special, "Passage", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>", model_max_length=512
    )


def cross_encoder() -> None:
    """Ours over a run, against a loop per query, `rerankers` and sentence-transformers, with the same weights."""
    queries, found = lists()
    documents = {document.id: document for own in found.values() for document in own}
    run = {q: {document.id: -float(place) for place, document in enumerate(own)} for q, own in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        one_score: dict[str, Any] = {"num_labels": 1}
        config = BertConfig(vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                            intermediate_size=1536, **one_score)  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        ours = PointwiseReranker(CrossEncoderScorer(folder, batch_size=BATCH, local_files_only=True))
        peers = {"a loop per query": naive(folder), **libraries(folder)}
        rows = []
        for name, peer in peers.items():
            ranked = {q: [d for d, _ in own] for q, own in peer(queries, found).items()}
            mine = rerank_run(ours, queries, documents, run)
            same = sum(ranked[q] == [d for d, _ in mine.ranking(q)] for q in queries)
            pairs = alternate(
                lambda: rerank_run(ours, queries, documents, run), lambda peer=peer: peer(queries, found), pairs=5
            )
            rows.append([name, *pairs.cells(), f"{same}/{len(queries)}"])
    show(
        f"{QUERIES} queries of {CANDIDATES} passages, batches of {BATCH}, {torch.get_num_threads()} threads "
        "(target 1.3x the loop)",
        ["peer", "ours", "peer", "faster", "min-max", "same order"],
        rows,
    )


Peer = Callable[[dict[str, str], dict[str, list[Document]]], dict[str, list[tuple[str, float]]]]


def naive(folder: str) -> Peer:
    """Query by query, batches in the order given, padded to the longest."""
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def ranked(queries: dict[str, str], found: dict[str, list[Document]]) -> dict[str, list[tuple[str, float]]]:
        best = {}
        for q, query in queries.items():
            scores: list[float] = []
            for start in range(0, len(found[q]), BATCH):
                texts = [document.text for document in found[q][start : start + BATCH]]
                inputs = words([query] * len(texts), texts, truncation=True, padding=True, return_tensors="pt")
                with torch.inference_mode():
                    scores += model(**inputs).logits[:, 0].tolist()
            best[q] = ordered([document.id for document in found[q]], scores)
        return best

    model.eval()
    return ranked


def libraries(folder: str) -> dict[str, Peer]:
    """Those that are installed."""
    peers: dict[str, Peer] = {}
    if find_spec("rerankers"):
        peers["rerankers"] = with_rerankers(folder)
    else:
        print("rerankers is not installed")
    if find_spec("sentence_transformers"):
        peers["sentence-transformers"] = with_sentence_transformers(folder)
    else:
        print("sentence-transformers is not installed")
    return peers


def with_rerankers(folder: str) -> Peer:
    from rerankers import Reranker

    model: Any = Reranker(folder, model_type="cross-encoder", batch_size=BATCH, device="cpu", verbose=0)

    def ranked(queries: dict[str, str], found: dict[str, list[Document]]) -> dict[str, list[tuple[str, float]]]:
        best = {}
        for q, query in queries.items():
            texts, ids = [document.text for document in found[q]], [document.id for document in found[q]]
            best[q] = [(r.document.doc_id, float(r.score)) for r in model.rank(query, texts, doc_ids=ids).results]
        return best

    return ranked


def with_sentence_transformers(folder: str) -> Peer:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, activation_fn=torch.nn.Identity(), device="cpu")

    def ranked(queries: dict[str, str], found: dict[str, list[Document]]) -> dict[str, list[tuple[str, float]]]:
        best = {}
        for q, query in queries.items():
            pairs = [(query, document.text) for document in found[q]]
            scores = model.predict(pairs, batch_size=BATCH, show_progress_bar=False)
            best[q] = ordered([document.id for document in found[q]], scores.tolist())
        return best

    return ranked


def ordered(ids: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float]]:
    return sorted(zip(ids, scores, strict=True), key=lambda pair: -pair[1])


def query_likelihood() -> None:
    """A second query over the same passages by UPR: encoder states that were kept, against none."""
    torch.manual_seed(0)
    special: dict[str, Any] = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 4}
    config = T5Config(vocab_size=1000, d_model=256, d_kv=32, d_ff=1024, num_layers=4, num_heads=8,
                      **special)  # fmt: skip
    model, words = T5ForConditionalGeneration(config).eval(), tokenizer()
    queries, found = lists()
    texts = [document.text for document in found["q0"]]
    kept = QueryLikelihoodScorer(model, words, keep=CANDIDATES, batch_size=BATCH)
    fresh = QueryLikelihoodScorer(model, words, batch_size=BATCH)
    query = queries["q1"]
    difference = np.abs(np.subtract(kept.score(query, texts), fresh.score(query, texts))).max()
    pairs = alternate(lambda: kept.score(query, texts), lambda: fresh.score(query, texts), pairs=7)
    show(
        f"UPR, {CANDIDATES} passages that came before",
        ["", "states kept", "encoded anew", "faster", "min-max", "difference"],
        [["T5 of 4 + 4 layers, width 256", *pairs.cells(), f"{difference:.0e}"]],
    )


def comparisons() -> None:
    """PRP's probabilities of all pairs: the start that prompts share is read once, against every prompt whole."""
    from fullrank.search import language_model_scores

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=8,
                         num_key_value_heads=4, intermediate_size=1024, bos_token_id=2, eos_token_id=4)  # fmt: skip
    compare = LikelihoodComparison(LlamaForCausalLM(config).eval(), tokenizer(), batch_size=BATCH)
    queries, found = lists()
    texts = [document.text for document in found["q0"][:8]]
    pairs = [(a, b) for a in texts for b in texts if a != b]

    def preferences(worth: int) -> list[float]:
        language_model_scores._WORTH_SHARING = worth
        return compare.preferences(queries["q0"], pairs)

    difference = np.abs(np.subtract(preferences(16), preferences(10**6))).max()
    times = alternate(lambda: preferences(16), lambda: preferences(10**6), pairs=5)
    show(
        f"PRP, {len(pairs)} prompts of 8 passages",
        ["", "start shared", "every prompt whole", "faster", "min-max", "difference"],
        [["Llama of 4 layers, width 256", *times.cells(), f"{difference:.0e}"]],
    )


if __name__ == "__main__":
    run_named([cross_encoder, query_likelihood, comparisons], sys.argv[1:])
