#!/bin/sh
# Says in one line what is missing before anything is installed.
# Usage: check-tools.sh PYTHON CXX
python=$1
cxx=$2
fail() { echo "error: $1" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || fail "no '$python' found; install Python >= 3.10 or call make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "$python is $("$python" -V 2>&1); Python >= 3.10 is needed (make PYTHON=/path/to/python3)"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)"
command -v "$cxx" >/dev/null 2>&1 ||
  fail "no C++ compiler '$cxx' found; install one (Debian, Ubuntu: apt-get install g++) or call make CXX=..."
echo 'int main() { return 0; }' | "$cxx" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
  fail "'$cxx' knows no C++20; g++ >= 11 or clang >= 16 is needed (make CXX=...)"
"$python" - <<'PY' || fail "the Python headers are missing; install them (Debian, Ubuntu: apt-get install python3-dev)"
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())
PY
