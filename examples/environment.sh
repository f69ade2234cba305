#!/usr/bin/env bash
# environment.sh DIRECTORY REQUIREMENT...: make a virtual environment unless it is there and up to date; print its python.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
directory=$1
shift
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is older than 3.11: name another with PYTHON=..." >&2
    exit 1
fi
# What was installed, written last: an interrupted installation is begun again.
wanted=$({ echo "$@"; "$python" --version; cat "$root/pyproject.toml"; } | cksum)
if [ "$(cat "$directory/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Making a virtual environment in $directory ..." >&2
    "$python" -m venv --clear "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
    echo "$wanted" > "$directory/installed"
fi
echo "$directory/bin/python"
