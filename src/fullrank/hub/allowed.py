"""Which paths a visitor may name: those in the folders that the operator allows."""

from __future__ import annotations

from pathlib import Path


class NotAllowed(PermissionError):
    """The path is outside the folders that the operator allows."""


def allowed_path(name: str, folders: tuple[Path, ...]) -> Path:
    """The place that a visitor names, absolute or relative to an allowed folder.

    Args:
        name: as typed.
        folders: those that the operator allows.

    Raises:
        NotAllowed: outside of them, also by a link.
        ValueError: no path, or one that the file system does not take.
        FileNotFoundError: nothing there.
    """
    if "\0" in name:
        raise ValueError("a path holds no zero byte")
    for folder in folders:
        path = (folder / name).resolve()  # an absolute name replaces the folder
        if path.is_relative_to(folder.resolve()):
            if not _exists(path):
                continue
            _require_files_inside(path, folders)
            return path
    allowed = ", ".join(str(folder) for folder in folders) or "none so far"
    if any(_inside((folder / name).resolve(), folders) for folder in folders):
        raise FileNotFoundError(f"{name} is not there; folders that may be read: {allowed}")
    raise NotAllowed(
        f"{name} is outside the folders that this hub may read ({allowed}); "
        "its operator allows one with fullrank serve --models FOLDER"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, or a folder that may not be searched
        raise ValueError(f"{path.name[:40]} cannot be looked for: {error.strerror}; name another path") from error


def _require_files_inside(path: Path, folders: tuple[Path, ...]) -> None:
    """A folder may hold links; what they point to is allowed or refused by where it is."""
    files = path.iterdir() if path.is_dir() else [path]
    for file in files:
        if file.is_symlink() and not _inside(file.resolve(), folders):
            raise NotAllowed(f"{file.name} in {path.name} is a link to outside the folders that this hub may read")


def _inside(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)
