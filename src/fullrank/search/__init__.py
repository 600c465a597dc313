"""Retrieve, re-rank, answer: protocols, runs and judgements, lexical, dense and hybrid retrieval; exemplars."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.order import Evaluation, evaluate
from fullrank.search.analysis import Analyzer
from fullrank.search.answering import Answered, answer_questions
from fullrank.search.answers import BasicRAG, ChainOfThoughtRAG, InContextRALM, SelfConsistencyRAG, ZeroShot
from fullrank.search.bm25 import BM25Retriever
from fullrank.search.catalogue import Catalogue
from fullrank.search.click_log import ClickLog
from fullrank.search.colbert_encoder import ColBERTEncoder
from fullrank.search.colbert_retriever import ColBERTRetriever
from fullrank.search.dense import DenseRetriever, Encoder, load_encoder
from fullrank.search.determinantal import dpp_kernel, greedy_map, k_dpp_sample
from fullrank.search.dq_lore import LoReReranker
from fullrank.search.dual_query import DualQuerySelector, Selection
from fullrank.search.echo_rank import EchoRankReranker
from fullrank.search.exemplar_candidates import score_candidates
from fullrank.search.exemplar_encoder import ExemplarEncoder
from fullrank.search.exemplar_losses import contrastive_exemplar_loss
from fullrank.search.exemplar_retriever import ExemplarRetriever
from fullrank.search.exemplar_training import CEILTrainer, EPRTrainer
from fullrank.search.exemplars import Exemplar, PromptTemplate, final_answer
from fullrank.search.extractive import ExtractiveReader
from fullrank.search.fusion import interleave, reciprocal_rank_fusion, score_fusion
from fullrank.search.fusion_in_decoder import FusionInDecoder
from fullrank.search.g_rank import GRank
from fullrank.search.gossip import GossipPeer
from fullrank.search.gossip_network import NetworkPeer
from fullrank.search.hybrid import HybridRetriever
from fullrank.search.hyde import HyDERetriever
from fullrank.search.language_model import BatchFunctionModel, FunctionModel, LanguageModel
from fullrank.search.late_interaction import maxsim
from fullrank.search.learned_sparse import SpladeEncoder, TokenWeightEncoder, splade_pooling
from fullrank.search.learned_sparse_retriever import LearnedSparseRetriever
from fullrank.search.listwise import SlidingWindowReranker, TournamentReranker
from fullrank.search.local_model import TransformersModel
from fullrank.search.opensearch import OpenSearchRetriever
from fullrank.search.pairwise import PairwiseReranker
from fullrank.search.peer_processes import ProcessNetwork
from fullrank.search.peer_scenarios import Timeline
from fullrank.search.peer_simulation import P2PSimulation
from fullrank.search.peer_store import PeerStore
from fullrank.search.pointwise import PointwiseReranker
from fullrank.search.protocols import Answer, Document, Generator, Queries, Ranking, Reranker, Retriever
from fullrank.search.qdrant import QdrantRetriever
from fullrank.search.react import ReActRAG
from fullrank.search.rerankers import RERANKERS, rerank_run, reranker
from fullrank.search.run import Qrels, Run
from fullrank.search.server_model import ServerModel
from fullrank.search.sesa import SESA
from fullrank.search.sesa_reranker import SESAReranker

if TYPE_CHECKING:
    from fullrank.search.explicit_semantics import ESA
    from fullrank.search.sesa_matcher import SESAMatcher

__all__ = [
    "ESA",
    "SESA",
    "SESAMatcher",
    "SESAReranker",
    "Analyzer",
    "PairwiseReranker",
    "PointwiseReranker",
    "RERANKERS",
    "SlidingWindowReranker",
    "TournamentReranker",
    "rerank_run",
    "reranker",
    "interleave",
    "score_fusion",
    "LoReReranker",
    "Evaluation",
    "evaluate",
    "Answer",
    "Answered",
    "BM25Retriever",
    "Catalogue",
    "ClickLog",
    "GRank",
    "GossipPeer",
    "NetworkPeer",
    "P2PSimulation",
    "PeerStore",
    "ProcessNetwork",
    "Timeline",
    "BatchFunctionModel",
    "CEILTrainer",
    "DualQuerySelector",
    "EPRTrainer",
    "Exemplar",
    "ExemplarEncoder",
    "ExemplarRetriever",
    "PromptTemplate",
    "Selection",
    "contrastive_exemplar_loss",
    "dpp_kernel",
    "greedy_map",
    "k_dpp_sample",
    "final_answer",
    "score_candidates",
    "EchoRankReranker",
    "BasicRAG",
    "ChainOfThoughtRAG",
    "ColBERTEncoder",
    "ColBERTRetriever",
    "DenseRetriever",
    "Document",
    "Encoder",
    "ExtractiveReader",
    "FunctionModel",
    "FusionInDecoder",
    "Generator",
    "HyDERetriever",
    "HybridRetriever",
    "InContextRALM",
    "LanguageModel",
    "OpenSearchRetriever",
    "LearnedSparseRetriever",
    "QdrantRetriever",
    "Qrels",
    "Queries",
    "Ranking",
    "ReActRAG",
    "Reranker",
    "Retriever",
    "Run",
    "SelfConsistencyRAG",
    "ServerModel",
    "SpladeEncoder",
    "TokenWeightEncoder",
    "TransformersModel",
    "ZeroShot",
    "answer_questions",
    "load_encoder",
    "maxsim",
    "reciprocal_rank_fusion",
    "splade_pooling",
]

#: Name -> the module that loads with its first use: they bring scikit-learn.
_LATER = {"ESA": "explicit_semantics", "SESAMatcher": "sesa_matcher"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.search.{_LATER[name]}"), name)
