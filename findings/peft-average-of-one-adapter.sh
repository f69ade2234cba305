#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: the "linear" average of an adapter with itself is twice the
# adapter, and adding an adapter that does nothing changes the result.
#
# Behaviour: add_weighted_adapter(..., combination_type="linear") sums the factors, A with A and
# B with B, each by the square root of its weight. The product of the sums has cross terms: with
# weights 1/2 and 1/2 an adapter and itself give (2 * sqrt(1/2))^2 = 2 times its change, and
# "linear" with a fresh adapter (B is zero, so its change is zero) adds B1 A2.
#
# Expected: weights that sum to one keep what all the adapters agree on, and a zero change is
# neutral, as "cat" and "svd" do it. "linear" is a linear combination of the factors, not of
# what the adapters do; its name, and the weights' meaning elsewhere, suggest the latter.
#
# Output seen (norm of the change, relative to the weighted sum of the adapters' changes, and
# its distance from that sum):
#   linear: an adapter with itself, 1/2 each: norm 2.000, distance 1.000
#   linear: an adapter and a fresh one, 1 each: norm 1.386, distance 0.685
#   cat: an adapter with itself, 1/2 each: norm 1.000, distance 0.000
#   cat: an adapter and a fresh one, 1 each: norm 1.000, distance 0.000
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 peft==0.21.2

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
settings = {"r": 2, "lora_alpha": 2, "target_modules": ["0"]}
model = get_peft_model(
    torch.nn.Sequential(torch.nn.Linear(8, 8)),
    LoraConfig(**settings, init_lora_weights=False),
    adapter_name="trained",
)
model.add_adapter("fresh", LoraConfig(**settings))
layer = model.base_model.model[0]
cases = {
    "an adapter with itself, 1/2 each": (["trained", "trained"], [0.5, 0.5]),
    "an adapter and a fresh one, 1 each": (["trained", "fresh"], [1.0, 1.0]),
}
distances = {"linear": [], "cat": []}
for kind, values in distances.items():
    for number, (words, (names, weights)) in enumerate(cases.items()):
        result = f"{kind}{number}"
        model.add_weighted_adapter(names, weights, result, combination_type=kind)
        change = layer.get_delta_weight(result)
        total = sum(w * layer.get_delta_weight(n) for n, w in zip(names, weights))
        values.append(((change - total).norm() / total.norm()).item())
        print(f"{kind}: {words}: norm {change.norm() / total.norm():.3f}, distance {values[-1]:.3f}")
sys.exit(not (min(distances["linear"]) > 0.5 and max(distances["cat"]) < 1e-5))
PYTHON
