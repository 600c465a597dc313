"""The verbs of search: index, search, ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fullrank.cli.output import console, errors, print_json

if TYPE_CHECKING:
    from fullrank.search import BM25Retriever, Retriever

Mode = Literal["keyword", "semantic", "hybrid"]
Method = Literal["basic-rag", "chain-of-thought-rag", "self-consistency-rag", "in-context-ralm", "zero-shot"]
Folder = Annotated[Path, typer.Argument(help="Folder of an index.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]
_SHOWN = 160


def index(
    documents: Annotated[
        list[Path], typer.Argument(help=".jsonl, .tsv or .parquet files with id, text, title.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the index.", show_default=False)],
    stopwords: Annotated[str, typer.Option(help="Language of words to leave out; none for none.")] = "en",
    stemming: Annotated[str, typer.Option(help="Language whose endings are cut, such as en; none for none.")] = "none",
    meaning: Annotated[bool, typer.Option("--meaning", help="Encode texts too, to search by meaning.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Add to the index that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that cannot be read.")] = False,
) -> None:
    """Index documents: keywords by BM25, and meaning by a small encoder if asked for.

    Example: `fullrank index corpus.jsonl --out my-index --stemming en --meaning`
    """
    from fullrank.search import BM25Retriever, DenseRetriever
    from fullrank.search.reading import Complaints, read_documents

    exists = (out / "retriever.json").exists()
    if exists and not add:
        raise FileExistsError(17, "An index is there; name another folder, or add --add", str(out))
    if add and not exists:
        raise FileNotFoundError(2, "No index is there to add to; leave out --add", str(out))
    complaints = Complaints()
    every = (d for path in documents for d in read_documents(path, None if strict else complaints))
    with console.status("indexing"):
        if add:
            found = list(every)
            retriever = BM25Retriever.load(out).add(found)
        else:
            chosen: dict[str, Any] = {"stopwords": _language(stopwords), "stemming": _language(stemming)}
            retriever = BM25Retriever(**chosen).build(every, scratch=out / "building")
            found = []
        retriever.save(out)
        _remove(out / "building")
        if meaning or (out / "meaning").exists():
            dense = DenseRetriever.load(out / "meaning") if (out / "meaning").exists() else DenseRetriever()
            dense.add(found or list(retriever.documents.values())).save(out / "meaning")
    for example in complaints.examples:
        errors.print(f"left out: {example}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if complaints.count:
        errors.print(f"{complaints.count} lines could not be read and were left out; --strict stops at the first")
    console.print(f"{len(retriever):,} documents in {out}", highlight=False, soft_wrap=True)


def search(
    folder: Folder,
    query: Annotated[str | None, typer.Argument(help="Words to look for.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Many queries: .tsv of id and text, .jsonl or .parquet.")] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="Documents a query.")] = 10,
    mode: Annotated[Mode | None, typer.Option(help="[default: hybrid where meaning is indexed, else keyword]")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write .trec, .jsonl or .parquet.")] = None,
    overwrite: Overwrite = False,
    why: Annotated[bool, typer.Option("--why", help="Say what each word adds to a score.")] = False,
    as_json: Json = False,
) -> None:
    """Search an index: one query to read, or many into a run file.

    Example: `fullrank search my-index "low-rank adapters" --why`
    """
    from fullrank.search.reading import read_queries, write_run

    if (query is None) == (queries is None):
        raise ValueError("give one query, or a file of them: --queries queries.tsv")
    if output is not None and output.exists() and not overwrite:
        raise FileExistsError(17, "File exists; name another one, or add --overwrite", str(output))
    keyword, retriever = _opened(folder, mode)
    run = retriever.search(query if query is not None else read_queries(queries or Path()), count)
    if output is not None:
        errors.print(f"wrote {write_run(output, run)}", markup=False, highlight=False, soft_wrap=True)
        return
    if query is None:
        print(run.to_trec(), end="")
        return
    rows = [_row(keyword, query, id, score, why) for id, score in run.ranking("0", count)]
    if as_json:
        print_json(rows)
        return
    console.print(_hits(rows, why) if rows else "nothing was found")


def ask(
    folder: Folder,
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
    mode: Annotated[Mode | None, typer.Option(help="How to search.")] = None,
    as_json: Json = False,
) -> None:
    """Answer a question from an index, with sources.

    An address is that of a server that speaks OpenAI's protocol; its key is read from FULLRANK_API_KEY.

    Example: `fullrank ask my-index "Who wrote the report?"`
    """
    from fullrank.search import answer_questions
    from fullrank.search.readers import open_reader

    generator = open_reader(reader, model, method)
    keyword, retriever = _opened(folder, mode)
    with console.status("answering"):
        answered = answer_questions(
            question, retriever, keyword.documents, generator, n_docs=max(count, 20), top_k=count
        )
    answer = answered["0"].answer
    if as_json:
        print_json({"answer": answer.text, "sources": list(answer.sources)})
        return
    console.print(answer.text or "no answer was found", markup=False, highlight=False)
    for id in answer.sources:
        document = keyword.documents[id]
        shown = f"{document.title}: {document.text}" if document.title else document.text
        console.print(f"  [{id}] {_short(shown)}", style="dim", markup=False, highlight=False)


def _opened(folder: Path, mode: Mode | None) -> tuple[BM25Retriever, Retriever]:
    """The keyword index, which holds the documents, and what is to be searched."""
    from fullrank.search import BM25Retriever, DenseRetriever, HybridRetriever

    keyword = BM25Retriever.load(folder)
    has_meaning = (folder / "meaning" / "retriever.json").exists()
    if mode in ("semantic", "hybrid") and not has_meaning:
        raise ValueError(f"{folder} has no meaning indexed: fullrank index ... --meaning, or --mode keyword")
    mode = mode or ("hybrid" if has_meaning else "keyword")
    if mode == "keyword":
        return keyword, keyword
    dense = DenseRetriever.load(folder / "meaning")
    return keyword, dense if mode == "semantic" else HybridRetriever([keyword, dense])


def _row(keyword: BM25Retriever, query: str, id: str, score: float, why: bool) -> dict[str, Any]:
    document = keyword.documents[id]
    row: dict[str, Any] = {"id": id, "score": score, "title": document.title, "text": document.text}
    return row | ({"why": keyword.explain(query, id)} if why else {})


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
        table.add_row(row["id"], f"{row['score']:.4g}", Text(_short(text)), *([Text(reasons)] if why else []))
    return table


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"


def _language(text: str) -> str | None:
    return None if text == "none" else text


def _remove(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
