"""Fetch a file once: streamed, checked, and put in place whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx


class DownloadError(OSError):
    """A file could not be fetched; the message says what, from where, why, and where to put it by hand."""


class ChecksumError(DownloadError):
    """A file is not what it should be."""


def download(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Fetch a file.

    Args:
        url: http or https address.
        destination: where it goes; replaced only by a whole and right file.
        sha256: expected checksum; None accepts any content.
        timeout: seconds without an answer or without data.
        on_progress: called with (bytes so far, bytes in all or 0).

    Returns:
        The content's sha256.

    Raises:
        ChecksumError: another checksum.
        DownloadError: no network, an error of the server, a body that ends early, no room on the disk.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{destination.name}.", suffix=".part", dir=destination.parent)
    except OSError as error:
        raise DownloadError(f"{destination} cannot be written: {error.strerror or error}") from error
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            found = _stream(url, file, timeout, on_progress)
            file.flush()
            os.fsync(file.fileno())
        if sha256 is not None and found != sha256:
            raise ChecksumError(
                f"{url} has sha256 {found}, but {sha256} is expected: it changed at its origin, or on the way"
            )
        part.replace(destination)
    except httpx.HTTPStatusError as error:
        raise DownloadError(_failed(url, f"the server answers {error.response.status_code}", destination)) from error
    except httpx.TimeoutException as error:
        raise DownloadError(_failed(url, f"no answer within {timeout:g} s", destination)) from error
    except httpx.HTTPError as error:
        raise DownloadError(_failed(url, f"no connection ({error})", destination)) from error
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{destination} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return found


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stream(url: str, file: object, timeout: float, on_progress: Callable[[int, int], None]) -> str:
    digest = hashlib.sha256()
    with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0))
        for chunk in response.iter_bytes():
            file.write(chunk)  # type: ignore[attr-defined]
            digest.update(chunk)
            on_progress(response.num_bytes_downloaded, total)
    return digest.hexdigest()


def _failed(url: str, why: str, destination: Path) -> str:
    return f"{url} could not be fetched: {why}; try again online, or put the file at {destination} by hand"
