"""python -m wrinklefree.serve.grammar_trial < GRAMMAR

Compiles a grammar in a process of its own before the server does. Some schemas of one line take for
ever or gigabytes, such as forty patterns that must all match, and nothing can interrupt llguidance.
Exits with 0 if the grammar, right or wrong, is dealt with soon.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import threading
from collections import deque

from llguidance import LLMatcher, LLTokenizer

MAX_CPU_S = 2
MAX_KIB = 64 << 10
# On a machine that is busy with other things.
TIMEOUT_S = 30.0
_NUM_REMEMBERED = 1024


class Trials:
    """Grammars that went through. Thread-safe."""

    def __init__(self) -> None:
        self._passed: deque[bytes] = deque(maxlen=_NUM_REMEMBERED)
        self._lock = threading.Lock()

    def passes(self, source: str) -> bool:
        """False if compiling takes too much; blocks for a tenth of a second, up to TIMEOUT_S."""
        digest = hashlib.sha256(source.encode()).digest()
        with self._lock:
            if digest in self._passed:
                return True
        if not _passes(source):
            return False
        with self._lock:
            self._passed.append(digest)
        return True


def _passes(source: str) -> bool:
    try:
        # cwd: Python looks for modules there, and a server may be started anywhere.
        ran = subprocess.run(
            [sys.executable, "-m", "wrinklefree.serve.grammar_trial"],
            input=source.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What takes long does not depend on the tokens; a byte is one here.
    matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.exit(0 if grown <= MAX_KIB else 1)


if __name__ == "__main__":
    main()
