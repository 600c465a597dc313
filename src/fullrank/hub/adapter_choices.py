"""What the forms for adapters offer: data sets, methods, and how much may be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Form, Request

from fullrank import data, papers
from fullrank.hub.allowed import allowed_path
from fullrank.hub.models import Model, bundled_model, choose_to_train, models_in

if TYPE_CHECKING:
    from fullrank.adapt import AdapterMethod
    from fullrank.tasks import Examples

#: Papers whose method can be named: the names of methods that are slugs too.
ADAPTER_PAPERS = frozenset({"hydra", "lamda", "loca", "loldu", "wara"})
_TASKS = {
    "classification": "classes of sentences",
    "regression": "scores of sentences",
    "pairs": "similarity of pairs",
    "causal-lm": "text to continue, for language models",
}
_SIZES = {"r": "rank", "n_frequency": "number of frequencies"}
_FILE = 64 * 2**20  # bytes: all of it is read into memory


@dataclass(frozen=True)
class Limits:
    """How much one job may do; the numbers come from forms.

    Attributes:
        examples: to train on, and to test on.
        epochs: passes over them.
        size: rank, or number of frequencies.
        budget: trainable parameters.
        seeds: of a comparison.
    """

    examples: int = 5000
    epochs: int = 20
    size: int = 100_000
    budget: int = 100_000_000
    seeds: int = 5


LIMITS = Limits()
#: What the forms propose: minutes of work for two cores.
PROPOSED = {"data": "sst2", "method": "lora", "examples": 500, "epochs": 3, "budget": 25_000, "seeds": 3}
ExampleCount = Annotated[int, Form(ge=2, le=LIMITS.examples)]
Epochs = Annotated[int, Form(ge=1, le=LIMITS.epochs)]
Size = Annotated[int | None, Form(ge=1, le=LIMITS.size)]
SizeByBudget = Annotated[int | None, Form(ge=1, le=LIMITS.budget)]
Budget = Annotated[int, Form(ge=1, le=LIMITS.budget)]
Seeds = Annotated[int, Form(ge=1, le=LIMITS.seeds)]


def choices(request: Request) -> dict[str, Any]:
    """What may be chosen, as plain data.

    Raises:
        MissingExtra: methods or the encoder are not installed.
    """
    from fullrank.adapt import METHODS  # brings torch

    folders: tuple[Path, ...] = request.app.state.settings.models
    trainable = [model for model in models_in(folders) if model.path.is_dir()]
    return {
        "models": [model.name for model in (bundled_model(), *trainable)],
        "folders": [str(folder) for folder in folders],
        "data_sets": [_data_set(name, task) for name, task in _tasks().items()],
        "methods": [_method(method) for method in METHODS.values()],
        "limits": vars(LIMITS),
        "proposed": PROPOSED,
    }


def choose_data(name: str, folders: tuple[Path, ...]) -> Examples:
    """The data that a visitor names: a bundled data set, or the path of a file in an allowed folder.

    They are read: what is wrong with a file is told here, and not by a job that fails.

    Args:
        name: as typed.
        folders: those that the operator allows.

    Raises:
        NotAllowed, FileNotFoundError: as `allowed_path`.
        ValueError: no name, no data set of that name, or a file that is too large, of no known format or damaged.
    """
    from fullrank.tasks.examples import SUFFIXES, load_examples

    name = name.strip()
    if not name:
        raise ValueError("no data is named; choose a data set, or type the path of a file")
    if name in _tasks():
        return load_examples(name)
    if not Path(name).suffix and "/" not in name:
        raise ValueError(f"there is no data set {name!r} to train on; there are {', '.join(_tasks())}")
    path = allowed_path(name, folders)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(f"{name} is no file of examples: one that ends in {', '.join(SUFFIXES)} is needed")
    if path.stat().st_size > _FILE:
        raise ValueError(f"{name} has {path.stat().st_size / 2**20:.0f} MiB; at most {_FILE // 2**20} are read here")
    return load_examples(path)


@dataclass(frozen=True)
class ModelAndData:
    """What every form that trains or measures asks for first.

    Attributes:
        model: a folder that can be trained from.
        data: examples.
    """

    model: Model
    data: Examples


def model_and_data(
    request: Request,
    model: Annotated[str, Form()] = "",
    path: Annotated[str, Form()] = "",
    data: Annotated[str, Form()] = "",
    file: Annotated[str, Form()] = "",
) -> ModelAndData:
    """A dependency: model and data of a form; a path that is typed goes before what is chosen.

    Raises:
        NotAllowed, ValueError, FileNotFoundError: as `choose_to_train` and `choose_data`.
    """
    folders: tuple[Path, ...] = request.app.state.settings.models
    return ModelAndData(choose_to_train(path or model, folders), choose_data(file or data, folders))


def choose_method(name: str) -> AdapterMethod:
    """The method that a visitor names.

    Raises:
        ValueError: there is none of that name.
        MissingExtra: methods are not installed.
    """
    from fullrank.adapt import adapter_method  # brings torch

    try:
        return adapter_method(name)
    except LookupError as error:  # a wrong answer in a form, not an address that leads nowhere
        raise ValueError(str(error)) from error


def _tasks() -> dict[str, str]:
    """Data sets by task; text to continue comes last: the encoder that comes with Fullrank cannot be trained on it."""
    from fullrank.tasks.examples import bundled_tasks  # brings torch

    found = bundled_tasks()
    return {name: found[name] for name in sorted(found, key=lambda name: (list(_TASKS).index(found[name]), name))}


def _data_set(name: str, task: str) -> dict[str, str]:
    return {"name": name, "title": data.dataset(name).title, "task": task, "poses": _TASKS[task]}


def _method(method: AdapterMethod) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "size": _SIZES[method.size],
        "default": method.default,
        "paper": papers.find(method.name).title if method.name in ADAPTER_PAPERS else "",
    }
