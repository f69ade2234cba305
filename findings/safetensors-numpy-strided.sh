#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: safetensors.numpy.save writes a transposed or
# strided array as whatever lies in its buffer.
#
# Behaviour: the header has the array's shape, the data is the memory from the array's first
# byte on, in memory order. A transpose comes back with its values permuted, a[::2] comes back
# with the values that it had skipped. No error, no warning, on either side. save_file, too.
#
# Expected: the array's values in C order, as numpy.save writes them and as safetensors 0.7
# did, or a refusal, as safetensors.torch has for a tensor that is not contiguous. Arrays in
# Fortran order are ordinary: scikit-learn's PCA and any `weight.T` make them. (Reported to the
# library as its issue 825; the pinned release has it.)
#
# Output seen:
#   transposed: saved [[0, 3], [1, 4], [2, 5]], loaded [[0, 1], [2, 3], [4, 5]]
#   strided: saved [0, 2, 4], loaded [0, 1, 2]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  safetensors==0.8.0 numpy==2.4.6

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import sys

import numpy
from safetensors.numpy import load, save

arrays = {
    "transposed": numpy.arange(6, dtype=numpy.int32).reshape(2, 3).T,
    "strided": numpy.arange(6, dtype=numpy.int32)[::2],
}
surprises = 0
for name, array in arrays.items():
    loaded = load(save({name: array}))[name]
    print(f"{name}: saved {array.tolist()}, loaded {loaded.tolist()}")
    surprises += not numpy.array_equal(array, loaded)
sys.exit(surprises != len(arrays))
PYTHON
