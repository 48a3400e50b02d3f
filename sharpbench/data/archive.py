"""Reading archives that nobody vouches for: only what is expected, never more bytes than expected."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from ..errors import InvalidInput

MEND = "delete the file and fetch it again"
# A tar's other members (a readme, class names) are small; more than this beside what is expected is refused.
OTHER_BYTES = 64 * 2**20


def read_tar(path: Path, expected: Mapping[str, int]) -> dict[str, bytes]:
    """The expected members of a tar.gz, read in memory: nothing is unpacked to disk.

    A member that would leave the folder it is unpacked to (an absolute name, ``..``, a link out), or a
    device, condemns the archive, whatever it is called: tarfile's ``data`` filter decides.

    Args:
        path: the archive.
        expected: member name → size in bytes.

    Raises:
        InvalidInput: not a whole tar.gz, an unsafe member, a missing one, or one of another size.
    """
    found: dict[str, bytes] = {}
    allowed = sum(expected.values()) + OTHER_BYTES
    try:
        with gzip.open(path, "rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:
                tarfile.data_filter(member, str(path.parent))
                allowed -= member.size
                if allowed < 0:
                    raise InvalidInput(f"{path} unpacks to far more than it should; {MEND}")
                name = member.name.removeprefix("./")
                if name not in expected:
                    continue
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None or member.size != expected[name] or name in found:
                    raise InvalidInput(
                        f"{path}: {name} must be one file of {expected[name]} bytes, but has {member.size}; "
                        f"{MEND}"
                    )
                found[name] = stream.read()
                if len(found[name]) != expected[name]:
                    raise InvalidInput(f"{path} ends early; {MEND}")
            # gzip's own checksum stands at the end of the file, and tarfile does not read that far.
            while block := unpacked.read(2**20):
                allowed -= len(block)
                if allowed < 0:
                    raise InvalidInput(f"{path} unpacks to far more than it should; {MEND}")
    except tarfile.FilterError as error:
        raise InvalidInput(f"{path} holds an unsafe member ({error}); get it from its publisher") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InvalidInput(f"{path} is not a whole tar.gz archive ({error}); {MEND}") from error
    missing = sorted(set(expected) - set(found))
    if missing:
        raise InvalidInput(f"{path} lacks {', '.join(missing)}; is it another archive? Otherwise {MEND}")
    return found


def read_gzip(path: Path, size: int) -> bytes:
    """What a .gz unpacks to, which must be ``size`` bytes.

    Raises:
        InvalidInput: not a whole gzip file, or of another size.
    """
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read(size + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise InvalidInput(f"{path} is not a whole gzip file ({error}); {MEND}") from error
    if len(content) != size:
        more = "more than " if len(content) > size else ""
        raise InvalidInput(
            f"{path} must unpack to {size} bytes, but has {more}{min(len(content), size)}; {MEND}"
        )
    return content
