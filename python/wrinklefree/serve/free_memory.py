"""How much memory this process may still take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
# Files of a memory cgroup, version 2 and 1: limit, use. Pages of files are in the use, but leave
# when memory is asked for.
_V2 = ("memory.max", "memory.current")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_bytes(root: Path = ROOT) -> int | None:
    """The least of what the machine has left and what the cgroups of this process leave (those of
    a container, or of systemd); None where neither can be read."""
    found = [_machine_bytes(root), *_cgroup_bytes(root)]
    known = [number for number in found if number is not None]
    return min(known) if known else None


def _machine_bytes(root: Path) -> int | None:
    match = re.search(r"^MemAvailable: *(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) << 10 if match else None


def _cgroup_bytes(root: Path) -> Iterator[int | None]:
    """Of the group of this process and all groups above it, as far as they are mounted."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, names, prefix = root / "sys/fs/cgroup", _V2, ""
        elif "memory" in controllers.split(","):
            mount, names, prefix = root / "sys/fs/cgroup/memory", _V1, "total_"
        else:
            continue
        path = PurePosixPath(group)
        for one in (path, *path.parents):
            yield _group_bytes(mount / str(one).lstrip("/"), names, prefix)


def _group_bytes(folder: Path, names: tuple[str, str], prefix: str) -> int | None:
    limit, used = (_text(folder / name).strip() for name in names)
    if not limit.isdigit() or not used.isdigit():  # "max", or no such group in this mount
        return None
    files = re.findall(
        rf"^{prefix}(?:in)?active_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE
    )
    return max(0, int(limit) - int(used) + sum(map(int, files)))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
