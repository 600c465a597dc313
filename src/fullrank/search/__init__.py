"""Retrieve, re-rank, answer: protocols, runs and judgements, lexical, dense and hybrid retrieval."""

from fullrank.search.bm25 import BM25Retriever
from fullrank.search.dense import DenseRetriever, Encoder, load_encoder
from fullrank.search.fusion import reciprocal_rank_fusion
from fullrank.search.hybrid import HybridRetriever
from fullrank.search.protocols import Answer, Document, Generator, Queries, Ranking, Reranker, Retriever
from fullrank.search.run import Qrels, Run

__all__ = [
    "Answer",
    "BM25Retriever",
    "DenseRetriever",
    "Document",
    "Encoder",
    "Generator",
    "HybridRetriever",
    "Qrels",
    "Queries",
    "Ranking",
    "Reranker",
    "Retriever",
    "Run",
    "load_encoder",
    "reciprocal_rank_fusion",
]
