#!/usr/bin/env bash
# mergekit 0.1.5 with transformers 5.24.0 and torch 2.13.0: model_stock of two fine-tunes that
# disagree moves the base away from both, four times as far as either had gone.
#
# Behaviour: the method weighs the fine-tunes' mean against the base by
# t = 2 cos / (1 + cos), cos being that of the angle between their changes. For a negative cosine t
# is negative and has no lower bound: at cos = -0.9 it is -18. Nothing clamps it or says so. At
# cos = -1 exactly the code keeps the base "instead of amplifying opposing updates".
#
# Expected: an interpolation between the base and the mean of the fine-tunes, as the method is
# described, and for opposed ones at most the base, which is what the case of -1 gives.
#
# Output seen (each change as compared with the base):
#   cosine between the two fine-tunes' changes: -0.90
#   cosine of the merge's change with their mean's: -0.99
#   cosine of it with the first's and the second's: -0.23, -0.21
#   its norm relative to the larger of the two: 4.04
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  mergekit==0.1.5 transformers==5.24.0 torch==2.13.0

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import subprocess
import sys

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)
base = LlamaForCausalLM(config)
base.save_pretrained("base")
weights = base.state_dict()
task, other = ({name: 0.01 * torch.randn_like(w) for name, w in weights.items()} for _ in range(2))
for folder, along, across in (("first", 1, 0), ("second", -0.9, 0.19**0.5)):
    model = LlamaForCausalLM(config)
    model.load_state_dict({n: w + along * task[n] + across * other[n] for n, w in weights.items()})
    model.save_pretrained(folder)
with open("recipe.yml", "w") as file:
    file.write(
        "merge_method: model_stock\nbase_model: ./base\ndtype: float32\n"
        "models:\n- model: ./first\n- model: ./second\n"
    )
command = ["venv/bin/mergekit-yaml", "recipe.yml", "merged", "--no-write-model-card", "--no-copy-tokenizer"]
subprocess.run(command, check=True)


def change(folder):
    """All that a folder's weights differ by from the base's, as one vector."""
    tensors, origin = (load_file(f"{f}/model.safetensors") for f in (folder, "base"))
    return torch.cat([(tensors[n] - origin[n]).flatten() for n in sorted(origin)])


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


first, second, merged = change("first"), change("second"), change("merged")
against = [cosine(merged, v) for v in ((first + second) / 2, first, second)]
ratio = (merged.norm() / max(first.norm(), second.norm())).item()
print(f"cosine between the two fine-tunes' changes: {cosine(first, second):.2f}")
print(f"cosine of the merge's change with their mean's: {against[0]:.2f}")
print(f"cosine of it with the first's and the second's: {against[1]:.2f}, {against[2]:.2f}")
print(f"its norm relative to the larger of the two: {ratio:.2f}")
sys.exit(not (max(against) < -0.1 and ratio > 2))
PYTHON
