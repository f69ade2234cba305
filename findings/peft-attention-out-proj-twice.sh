#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: LoRA on torch.nn.MultiheadAttention adds the output
# projection's change twice, in forward and in the merge.
#
# Behaviour: one target, the attention module, gives factors for in_proj_weight and for
# out_proj. The model computes with in_proj_weight + B A, but out_proj.weight + 2 B A. Forward
# and merge agree with each other, so that neither test of the other shows it; any other reader
# of the saved adapter (alpha / r * B A, as its config says) gets another model.
#
# Expected: alpha / r * B A once for each weight, the definition of LoRA and what every other
# layer type of the library does. (Proposed for repair as the library's pull request 3774.)
#
# Output seen:
#   out_proj + 0 * B A: largest difference from the adapted model 0.63157487
#   out_proj + 1 * B A: largest difference from the adapted model 0.31578740
#   out_proj + 2 * B A: largest difference from the adapted model 0.00000009
#   after merge_and_unload, out_proj changed by 2.000 * B A
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


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


torch.manual_seed(0)
network = Network().eval()
base = {name: tensor.clone() for name, tensor in network.state_dict().items()}
config = LoraConfig(r=4, lora_alpha=4, target_modules=["attention"], init_lora_weights=False)
model = get_peft_model(network, config).eval()
layer = model.base_model.model.attention
change_in = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
projection = layer.base_layer.out_proj
change_out = projection.lora_B["default"].weight @ projection.lora_A["default"].weight
x = torch.randn(2, 5, 16)
with torch.no_grad():
    adapted = model(x)
    differences = []
    for factor in range(3):
        plain = Network().eval()
        plain.load_state_dict(base)
        plain.attention.in_proj_weight += change_in
        plain.attention.out_proj.weight += factor * change_out
        differences.append((plain(x) - adapted).abs().max().item())
        print(f"out_proj + {factor} * B A: largest difference from the adapted model {differences[-1]:.8f}")
    merged = model.merge_and_unload().state_dict()["attention.out_proj.weight"]
    ratio = (merged - base["attention.out_proj.weight"]).norm() / change_out.norm()
print(f"after merge_and_unload, out_proj changed by {ratio:.3f} * B A")
sys.exit(not (differences[1] > 0.1 and differences[2] < 1e-5 and abs(ratio - 2) < 1e-3))
PYTHON
