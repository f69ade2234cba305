#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: with target_modules="all-linear" the LoRA on a
# torch.nn.MultiheadAttention never runs, until it is merged.
#
# Behaviour: "all-linear" finds out_proj, the only Linear in the module (in_proj_weight is a bare
# parameter), and wraps it. torch's attention reads out_proj.weight and never calls out_proj, so
# the factors take no part in forward and get no gradient: the parameters are counted as
# trainable, and nothing warns. merge_and_unload adds them, so that the merged model is not the
# adapted one. The same holds for target_modules=["out_proj"].
#
# Expected: a refusal or a warning, as the library has for Mamba's out_proj, and in any case
# merged output equal to adapted output.
#
# Output seen:
#   trainable parameters of the attention: 128
#   the adapter changes the output by 0.0000, its parameters with a gradient: 0 of 2
#   merged, it changes the output by 0.6002
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
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0])


torch.manual_seed(0)
network = Network().eval()
x = torch.randn(2, 5, 16)
before = network(x).detach()
config = LoraConfig(
    r=4, target_modules="all-linear", exclude_modules=["head"], init_lora_weights=False
)
model = get_peft_model(network, config).eval()
model.base_model.model.head.weight.requires_grad_(True)
adapted = model(x)
adapted.sum().backward()
factors = [p for name, p in model.named_parameters() if "lora_" in name]
print("trainable parameters of the attention:", sum(p.numel() for p in factors if p.requires_grad))
effect = (adapted - before).abs().max().item()
trained = sum(p.grad is not None for p in factors)
print(f"the adapter changes the output by {effect:.4f}, its parameters with a gradient: {trained} of {len(factors)}")
merged = (model.merge_and_unload()(x) - before).abs().max().item()
print(f"merged, it changes the output by {merged:.4f}")
sys.exit(not (factors and effect < 1e-5 and trained == 0 and merged > 0.1))
PYTHON
