"""What `cuobjdump -sass` says of a cubin, kept in `build/sass`: it takes a fifth of a second to
begin, for each of a hundred."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build/sass"


def kept(cubin: Path, tool: str, disassemble: Callable[[], str]) -> str:
    """What `disassemble` gives, or gave of the same bytes by the same tool."""
    about = os.stat(tool)
    made_of = f"{tool} {about.st_size} {about.st_mtime_ns}".encode() + cubin.read_bytes()
    file = FOLDER / f"{hashlib.sha256(made_of).hexdigest()[:32]}.gz"
    with suppress(OSError, EOFError, zlib.error):  # not there, or not whole
        return gzip.decompress(file.read_bytes()).decode()
    listing = disassemble()
    with suppress(OSError):  # of a checkout that is only read nothing is kept
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(gzip.compress(listing.encode(), 1))
        part.replace(file)  # whole, whoever reads at the same time
    return listing
