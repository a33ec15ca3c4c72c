"""Whether files are still the ones that were read before, at the price of a look at each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

END_BYTES = 4096


def files_hash(files: Sequence[Path]) -> str:
    """SHA-256 over names, sizes and both ends of the files.

    No times: a copy is the same. Other bytes in the middle of a file of the same size go unseen.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    return digest.hexdigest()
