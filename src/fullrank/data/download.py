"""Fetch a file once: streamed, checked, and put in place whole or not at all."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

OnProgress = Callable[[int, int], None]


class DownloadError(OSError):
    """A file could not be fetched; the message says what, from where, why, and where to put it by hand."""


class ChecksumError(DownloadError):
    """A file is not what it should be; the message has the expected and the found checksum."""


def download(
    url: str,
    destination: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    timeout: float = 30.0,
    on_progress: OnProgress = lambda done, total: None,
) -> str:
    """Fetch a file. Any number of processes may fetch the same one at once.

    Args:
        url: http or https address; redirects are followed.
        destination: where it goes; replaced only by a whole and right file.
        sha256: expected checksum; None accepts any content.
        size: expected bytes; None accepts any number.
        timeout: seconds without a connection, an answer or further data.
        on_progress: called with (bytes so far, bytes in all or 0).

    Returns:
        The content's sha256.

    Raises:
        ChecksumError: another checksum or size; what was fetched is deleted.
        DownloadError: no network, an error of the server, a body that ends early, no room on the disk.
    """
    destination = Path(destination)
    part = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
    except OSError as error:
        raise _unwritable(destination, error) from error
    try:
        with part.open("wb") as file:
            found, done = _stream(url, file, timeout, on_progress)
            file.flush()
            os.fsync(file.fileno())
        if size is not None and done != size:
            raise ChecksumError(_failed(url, f"it has {done} bytes, {size} are expected", destination))
        if sha256 is not None and found != sha256:
            raise ChecksumError(_failed(url, f"it has sha256 {found}, {sha256} is expected", destination))
        part.replace(destination)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(_failed(url, _reason(error, timeout), destination)) from error
    except DownloadError:
        raise
    except OSError as error:
        raise _unwritable(destination, error) from error
    finally:
        part.unlink(missing_ok=True)
    return found


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stream(url: str, file: BinaryIO, timeout: float, on_progress: OnProgress) -> tuple[str, int]:
    """The checksum and the size of what was fetched."""
    digest, done = hashlib.sha256(), 0
    with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
        response.raise_for_status()
        compressed = "content-encoding" in response.headers  # its length is not the file's
        total = 0 if compressed else int(response.headers.get("content-length", 0))
        for chunk in response.iter_bytes():
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            on_progress(done, total)
    return digest.hexdigest(), done


def _reason(error: httpx.HTTPError | httpx.InvalidURL, timeout: float) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"the server answers {error.response.status_code} {error.response.reason_phrase}".rstrip()
    if isinstance(error, httpx.TimeoutException):
        return f"nothing came for {timeout:g} s"
    if isinstance(error, httpx.RemoteProtocolError):
        return f"the transfer broke off ({error})"
    if isinstance(error, httpx.TransportError):
        return f"there is no connection ({error})"
    return str(error)


def _unwritable(destination: Path, error: OSError) -> DownloadError:
    return DownloadError(f"{destination} cannot be written: {error.strerror or error}")


def _failed(url: str, why: str, destination: Path) -> str:
    return f"{destination.name} could not be fetched from {url}: {why}; try again later, or put it at {destination}"
