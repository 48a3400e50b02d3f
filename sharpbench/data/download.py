"""Archives brought to this machine: checked, or not there at all."""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from .places import megabytes, writing

if TYPE_CHECKING:
    from .published import Archive, Published

CHUNK = 2**18


class _Refused(Exception):
    """What asking again can't change; not a ValueError, which pooch would try again."""


def local_mirror(published: Published) -> Path | None:
    """The folder that the mirror variable names, or None if it names no folder."""
    value = os.environ.get(published.variable, "")
    if not value or urllib.parse.urlsplit(value).scheme in ("http", "https"):
        return None
    folder = Path(urllib.parse.urlsplit(value).path if value.startswith("file://") else value).expanduser()
    if not folder.is_dir():
        raise InvalidInput(
            f"{published.variable} must be an address (http://…, https://…) or a folder that exists, "
            f"but is {value!r}"
        )
    return folder


def archive_paths(published: Published, folder: Path) -> dict[str, Path]:
    """Where the archives are, or will be: in the local mirror, or below ``folder``."""
    place = local_mirror(published) or folder / published.name / "archives"
    return {archive.name: place / archive.name for archive in published.archives}


def fetch_archives(published: Published, folder: Path, *, progress: bool = False) -> dict[str, Path]:
    """Archive name → path, each with its pinned checksum; what is missing is downloaded.

    Raises:
        InvalidInput: no network, an error of the server, a wrong checksum, a folder that can't be written.
    """
    paths = archive_paths(published, folder)
    mirror = local_mirror(published)
    for archive in published.archives:
        path = paths[archive.name]
        if mirror is not None:
            if not path.is_file():
                raise InvalidInput(f"{published.variable} = {mirror} holds no {archive.name}; put it there")
            check_archive(path, archive)
        elif not matches(path, archive):
            _download(published, archive, path, progress)
    return paths


def matches(path: Path, archive: Archive) -> bool:
    """Whether the file is there with the pinned checksum."""
    import pooch

    if not path.is_file():
        return False
    algorithm, _, digest = archive.digest.partition(":")
    return bool(pooch.file_hash(str(path), alg=algorithm) == digest)


def check_archive(path: Path, archive: Archive) -> None:
    """The file has the pinned checksum.

    Raises:
        InvalidInput: it has another one.
    """
    if not matches(path, archive):
        raise InvalidInput(f"{path} {_wrong(path.stat().st_size, archive)}; replace it by the published file")


def _wrong(size: int, archive: Archive) -> str:
    if size < archive.size:
        return f"is truncated ({size} of {archive.size} bytes)"
    return f"does not have the checksum {archive.digest} ({size} bytes): it is corrupt, or another file"


def _download(published: Published, archive: Archive, path: Path, progress: bool) -> None:
    import pooch
    import requests

    base = os.environ.get(published.variable) or published.base
    address = base.rstrip("/") + "/" + archive.name
    received = 0
    with writing(path.parent, archive.size), _progress(archive, progress) as advance, _quiet(pooch):

        def download(url: str, output_file: str, owner: Any) -> None:
            nonlocal received
            received = 0
            with (
                requests.get(url, stream=True, timeout=published.timeout) as response,
                open(output_file, "wb") as stream,
            ):
                if 400 <= response.status_code < 500:
                    raise _Refused(f"the server answers {response.status_code}")
                response.raise_for_status()
                for chunk in response.iter_content(CHUNK):
                    received += len(chunk)
                    if received > 2 * archive.size + CHUNK:  # a wrong server can't fill the disk
                        raise _Refused(f"the file is far longer than the published {archive.size} bytes")
                    stream.write(chunk)
                    advance(received)

        cache = pooch.create(
            path=path.parent,
            base_url=base,
            registry={archive.name: archive.digest},
            urls={archive.name: address},
            retry_if_failed=published.retries,
        )
        try:
            cache.fetch(archive.name, downloader=download)
        except (_Refused, requests.RequestException) as error:
            raise InvalidInput(_explained(error, published, archive, address)) from error
        except ValueError as error:  # pooch's word for a wrong checksum
            raise InvalidInput(
                f"{address} {_wrong(received, archive)}; try again, or set {published.variable} to "
                "another mirror"
            ) from error


def _explained(error: Exception, published: Published, archive: Archive, address: str) -> str:
    """What happened on the network, and how to mend it, in one line."""
    import requests

    offline = (
        f"on a machine without internet put {archive.name} into a folder and set {published.variable} to it"
    )
    elsewhere = f"set {published.variable} to another mirror"
    if isinstance(error, _Refused):
        return f"{address}: {error}; {elsewhere}"
    if isinstance(error, requests.HTTPError):
        status = "with an error" if error.response is None else error.response.status_code
        return f"{address}: the server answers {status}; try again later, or {elsewhere}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"{address}: no answer within {published.timeout:g} s; try again later, or {offline}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"{address}: the connection ended before the file did; try again, or {offline}"
    return f"{address}: can't be reached; is there a network? If not: {offline}"


@contextlib.contextmanager
def _quiet(pooch: Any) -> Iterator[None]:
    """Our own lines and bars say what happens; pooch's log would repeat it."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _progress(archive: Archive, shown: bool) -> Iterator[Callable[[int], None]]:
    """What to tell the bytes received so far: a bar on stderr, or one line if that is no terminal."""
    if not shown:
        yield lambda received: None
        return
    if not sys.stderr.isatty():
        print(f"downloading {archive.name} ({megabytes(archive.size)})", file=sys.stderr)
        yield lambda received: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(archive.name, total=archive.size)
        yield lambda received: bar.update(task, completed=received)
