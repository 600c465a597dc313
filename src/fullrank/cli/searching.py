"""The verbs of search: index, search, ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fullrank.cli.output import check_places, console, errors, harmless, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from fullrank.search import BM25Retriever, Document, LanguageModel, Retriever
    from fullrank.search.model_indexes import ModelIndex
    from fullrank.search.reading import Complaints

    Explain = Callable[[str, str], dict[str, float]]

SearchMethod = Literal["keyword", "semantic", "hybrid", "bm25", "dense", "colbert", "splade", "unicoil", "hyde"]
IndexMethod = Literal["dense", "colbert", "splade", "unicoil"]
Method = Literal["basic-rag", "chain-of-thought-rag", "self-consistency-rag", "in-context-ralm", "zero-shot"]
Place = Annotated[
    str,
    typer.Argument(
        help="Folder of an index, or its address on a server: opensearch+http://HOST:9200/NAME, "
        "qdrant+http://HOST:6333/NAME.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Offline = Annotated[bool, typer.Option("--offline", help="Load the model from this machine alone.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]
_SYNONYMS = {"keyword": "bm25", "semantic": "dense"}
_SHOWN = 160


def index(
    documents: Annotated[
        list[Path], typer.Argument(help=".jsonl, .tsv or .parquet files with id, text, title.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="Folder of the index, or an address; see `search`.", show_default=False),
    ],
    stopwords: Annotated[str, typer.Option(help="Language of words to leave out; none for none.")] = "en",
    stemming: Annotated[str, typer.Option(help="Language whose endings are cut, such as en; none for none.")] = "none",
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Encode texts too, to search by meaning; the same as --method dense.")
    ] = False,
    method: Annotated[
        IndexMethod | None, typer.Option(help="A further index, beside the one of words, that a model makes.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the method's model. [default: the bundled encoder of dense]")
    ] = None,
    device: Device = "cpu",
    offline: Offline = False,
    add: Annotated[bool, typer.Option("--add", help="Add to the index that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that cannot be read.")] = False,
) -> None:
    """Index documents: keywords by BM25, and if asked for meaning by a small encoder, or what another model makes.

    What is indexed by a model is found with the same `--method` of `fullrank search`, which remembers the model. On an
    OpenSearch server keywords are indexed, on a Qdrant server meaning.

    Example: `fullrank index corpus.jsonl --out my-index --stemming en --meaning`
    Example: `fullrank index corpus.jsonl --out opensearch+http://localhost:9200/papers`
    """
    from fullrank.search.addresses import is_address
    from fullrank.search.index_folder import building
    from fullrank.search.reading import Complaints, read_documents

    asked = method or ("dense" if meaning else None)
    if model is not None and method is None:
        raise ValueError(f"model={model!r} makes no index without its method: --method colbert, for instance")
    complaints = Complaints()
    every = (d for path in documents for d in read_documents(path, None if strict else complaints))
    words = {"stopwords": _language(stopwords), "stemming": _language(stemming)}
    try:
        if is_address(out):
            if asked is not None:
                raise ValueError(f"--out {out} has the one index of its server; leave out --method and --meaning")
            with console.status("indexing"):
                count = _index_at(out, every, words if out.startswith("opensearch") else {}, add)
        else:
            folder = Path(out)
            with building(folder) as scratch, console.status("indexing"):
                exists = (folder / "retriever.json").exists()
                if exists and not add:
                    raise FileExistsError(17, "An index is there; name another folder, or add --add", out)
                if add and not exists:
                    raise FileNotFoundError(2, "No index is there to add to; leave out --add", out)
                further = _model_indexes(folder, asked, model, device, offline)
                count = _index(folder, every, None if add else words, further, scratch)
    finally:
        _tell(complaints)
    documents_now = "1 document" if count == 1 else f"{count:,} documents"
    console.print(f"{documents_now} in {out}", markup=False, highlight=False, soft_wrap=True)


def search(
    place: Place,
    query: Annotated[str | None, typer.Argument(help="Words to look for.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Many queries: .tsv of id and text, .jsonl or .parquet.")] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="Documents a query.")] = 10,
    method: Annotated[
        SearchMethod | None,
        typer.Option(
            "--method", "--mode", help="keyword is bm25, semantic is dense. [default: hybrid where meaning is indexed]"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Language model that hyde asks: a folder, a name, or the address of a server."),
    ] = None,
    device: Device = "cpu",
    offline: Offline = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write .trec, .jsonl or .parquet.")] = None,
    overwrite: Overwrite = False,
    why: Annotated[bool, typer.Option("--why", help="Say what each word adds to a score.")] = False,
    as_json: Json = False,
) -> None:
    """Search an index: one query to read, or many into a run file.

    hyde searches as dense does, for passages that a language model imagines; the key of one on a server is read from
    FULLRANK_API_KEY.

    Example: `fullrank search my-index "low-rank adapters" --why`
    Example: `fullrank search qdrant+http://localhost:6333/papers --queries queries.tsv -o run.trec`
    """
    from fullrank.search.empty_queries import gathered_empty
    from fullrank.search.reading import read_queries, write_run

    if (query is None) == (queries is None):
        raise ValueError("give one query, or a file of them: --queries queries.tsv")
    if query is not None and not query.strip():
        raise ValueError(f"query={query!r} asks for nothing; give some words")
    if output is not None:
        check_places([output], overwrite)
    if (method == "hyde") != (model is not None):
        raise ValueError(
            f"method={method!r} and model={model!r}: hyde, and no other method, asks a language model; --method hyde "
            f"--model FOLDER"
        )
    writer = None if model is None else _writer(model, device, offline)
    documents, retriever, explain = _opened(place, method, writer, device, offline)
    asked = {"0": query} if query is not None else read_queries(queries or Path())
    with gathered_empty() as empty:
        run = retriever.search(asked, count)
    if blank := [id for id in empty if not asked[id].strip()]:
        errors.print(f"blank, and so without results: query {_short(', '.join(blank))}", style="yellow", markup=False)
    if unknown := [id for id in empty if asked[id].strip() and query is None]:
        words = f"without words to look for, and so without results: query {_short(', '.join(unknown))}"
        errors.print(words, style="yellow", markup=False)
    if output is not None:
        errors.print(f"wrote {write_run(output, run)}", markup=False, highlight=False, soft_wrap=True)
        return
    if query is None:
        print(run.to_trec(), end="")
        return
    rows = [_row(documents[id], score, explain(query, id) if why else None) for id, score in run.ranking("0", count)]
    if as_json:
        print_json(rows)
        return
    console.print(_hits(rows, why) if rows else "nothing was found")


def ask(
    place: Place,
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    reader: Annotated[
        str,
        typer.Option(
            help="extractive (a sentence), span (words of it), a language model's folder or name, or an address."
        ),
    ] = "extractive",
    model: Annotated[str | None, typer.Option(help="Name of the model at the address. [default: its only one]")] = None,
    method: Annotated[Method, typer.Option(help="How a language model is asked.")] = "basic-rag",
    count: Annotated[int, typer.Option("-k", "--top-k", "--count", min=1, help="Passages to answer from.")] = 5,
    mode: Annotated[
        SearchMethod | None, typer.Option(help="How to search; hyde searches for what the reader imagines.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a question from an index, with sources.

    An address is that of a server that speaks OpenAI's protocol; its key is read from FULLRANK_API_KEY.

    Example: `fullrank ask my-index "Who wrote the report?"`
    """
    from fullrank.search import BasicRAG, answer_questions
    from fullrank.search.empty_queries import gathered_empty
    from fullrank.search.readers import open_reader

    generator = open_reader(reader, model, method)
    writer = generator.model if isinstance(generator, BasicRAG) else None
    if mode == "hyde" and writer is None:
        raise ValueError(f"--mode hyde asks the reader, and {reader!r} writes nothing: --reader a language model")
    documents, retriever, _ = _opened(place, mode, writer if mode == "hyde" else None)
    with console.status("answering"), gathered_empty():
        answered = answer_questions(question, retriever, documents, generator, n_docs=max(count, 20), top_k=count)
    answer = answered["0"].answer
    if as_json:
        print_json({"answer": answer.text, "sources": list(answer.sources)})
        return
    console.print(harmless(answer.text) or "no answer was found", markup=False, highlight=False)
    for id in answer.sources:
        document = documents[id]
        shown = f"{document.title}: {document.text}" if document.title else document.text
        console.print(f"  [{id}] {_short(shown)}", style="dim", markup=False, highlight=False)


def _index_at(address: str, documents: Iterable[Document], options: dict[str, Any], add: bool) -> int:
    """Index documents on a server, or add them; the number of documents now."""
    from fullrank.search.addresses import retriever_at

    retriever = retriever_at(address, **options)
    try:
        return len(retriever.add(documents) if add else retriever.build(documents))
    except FileExistsError:
        raise FileExistsError(17, "An index is there; name another one, or add --add", address) from None


def _index(
    out: Path,
    documents: Iterable[Document],
    options: dict[str, Any] | None,
    further: dict[Path, tuple[ModelIndex, bool]],
    scratch: Path,
) -> int:
    """Index documents anew by options, or add them without; the number of documents now."""
    from fullrank.search import BM25Retriever

    if options is None:
        found = list(documents)
        retriever = BM25Retriever.load(out).add(found, scratch)
    else:
        found = []
        retriever = BM25Retriever(**options).build(documents, scratch=scratch)
    for index, new in further.values():
        _extend(index, retriever.documents.values() if new else found, new, scratch)
    retriever.save(out)
    for place, (index, _) in further.items():
        index.save(place)
    return len(retriever)


def _model_indexes(
    out: Path, asked: IndexMethod | None, model: str | None, device: str, offline: bool
) -> dict[Path, tuple[ModelIndex, bool]]:
    """The indexes of models that are there or asked for, by folder, and whether they are new."""
    from fullrank.search.model_indexes import MODEL_INDEXES, model_index, open_model_index

    places = {name: out / folder for name, folder in MODEL_INDEXES.items()}
    present = [name for name, place in places.items() if (place / "retriever.json").exists()]
    if model is not None and asked in present:
        raise ValueError(f"{out} has an index of {asked} already, which knows its model; leave out --model")
    indexes = {
        places[name]: (open_model_index(out, name, **_loading(name, device, offline)), False) for name in present
    }
    if asked is not None and asked not in present:
        indexes[places[asked]] = model_index(asked, model, **_loading(asked, device, offline)), True
    return indexes


def _extend(index: ModelIndex, documents: Collection[Document], new: bool, scratch: Path) -> None:
    if not documents:
        return
    index.build(documents, scratch) if new else index.add(documents, scratch)


def _tell(complaints: Complaints) -> None:
    """Lines that were left out: how many, and the first of them."""
    for example in complaints.examples:
        errors.print(f"left out: {example}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if complaints.count:
        lines = "1 line" if complaints.count == 1 else f"{complaints.count:,} lines"
        errors.print(f"{lines} could not be read and had to be left out; --strict stops at the first", highlight=False)


def _loading(method: str, device: str, offline: bool) -> dict[str, Any]:
    """Options with which a method's model is loaded; that of dense is always on this machine."""
    return {"device": device} | ({"local_files_only": True} if offline and method != "dense" else {})


def _writer(model: str, device: str, offline: bool) -> LanguageModel:
    """The language model that hyde asks; one on a server is where it is."""
    from fullrank.search.readers import is_server, open_language_model

    return open_language_model(model, **({} if is_server(model) else _loading("hyde", device, offline)))


def _opened(
    place: str,
    asked: SearchMethod | None,
    writer: LanguageModel | None = None,
    device: str = "cpu",
    offline: bool = False,
) -> tuple[Mapping[str, Document], Retriever, Explain]:
    """The documents, what is to be searched, and what says which words make a score.

    The writer is the language model that hyde asks; no other method has one.
    """
    from fullrank.search.addresses import is_address
    from fullrank.search.inverted_index import InvertedIndex

    if not is_address(place):
        keyword, retriever = _in_folder(Path(place), asked, writer, device, offline)
        explaining = retriever if isinstance(retriever, InvertedIndex) else keyword
        return keyword.documents, retriever, explaining.explain
    from fullrank.search import OpenSearchRetriever
    from fullrank.search.addresses import retriever_at

    if asked is not None:
        raise ValueError(f"method={asked!r}: {place} is searched in the way of its server; leave the method out")
    retriever = retriever_at(place)
    if not len(retriever):  # raises where there is no such index
        raise ValueError(f"{place} holds no documents; fullrank index FILE --out {place} --add")
    explain = retriever.explain if isinstance(retriever, OpenSearchRetriever) else _by_meaning
    return retriever.documents, retriever, explain


def _by_meaning(query: str, document_id: str) -> dict[str, float]:
    """No word makes a score."""
    return {}


def _in_folder(
    folder: Path, asked: SearchMethod | None, writer: LanguageModel | None, device: str, offline: bool
) -> tuple[BM25Retriever, Retriever]:
    """The keyword index, which holds the documents, and what is to be searched."""
    from fullrank.search import BM25Retriever, DenseRetriever, HybridRetriever, HyDERetriever
    from fullrank.search.model_indexes import open_model_index

    keyword = BM25Retriever.load(folder)
    method = _SYNONYMS.get(asked or "", asked)
    method = method or ("hybrid" if (folder / "meaning" / "retriever.json").exists() else "bm25")
    if method == "bm25":
        return keyword, keyword
    searched = "dense" if method in ("hybrid", "hyde") else method
    found = open_model_index(folder, searched, **_loading(searched, device, offline))
    if method == "hybrid":
        return keyword, HybridRetriever([keyword, found])
    if isinstance(found, DenseRetriever) and writer is not None:
        return keyword, HyDERetriever(found, writer)
    return keyword, found


def _row(document: Document, score: float, reasons: dict[str, float] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"id": document.id, "score": score, "title": document.title, "text": document.text}
    return row if reasons is None else row | {"why": reasons}


def _hits(rows: list[dict[str, Any]], why: bool) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("text")
    if why:
        table.add_column("why")
    from rich.text import Text

    for row in rows:
        text = f"{row['title']}: {row['text']}" if row["title"] else row["text"]
        reasons = ", ".join(f"{term} {value:.2f}" for term, value in row.get("why", {}).items()) or "by meaning"
        table.add_row(
            Text(harmless(row["id"])), f"{row['score']:.4g}", Text(_short(text)), *([Text(reasons)] if why else [])
        )
    return table


def _short(text: str) -> str:
    words = harmless(text)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"


def _language(text: str) -> str | None:
    return None if text == "none" else text
