#!/usr/bin/env bash
# Commit real fine-tunes to a store, look at them, get them back and check them.
# Makes its own virtual environment on first use; downloads are kept in the user's cache directory.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# torch in the same command as the package, so that no other build of it is fetched first.
python=$("$root/examples/environment.sh" "$root/.venv-example" torch==2.13.0 transformers==5.23.0 -e "$root")
exec "$python" "$root/examples/main_job.py" "$@"
