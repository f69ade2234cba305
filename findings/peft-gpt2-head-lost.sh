#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0 and torch 2.13.0: a GPT-2 adapter on the tied
# embedding and head, saved and loaded again, has lost the head.
#
# Behaviour: with target_modules=["wte", "lm_head"] and ensure_weight_tying both layers are
# trained, and the file holds the factors of both, but the adapter_config.json that is saved beside
# it lists "wte" and "transformer.wte" in place of "lm_head". PeftModel.from_pretrained then
# wraps no head and drops its factors. Its warnings do not speak of them. The same adapter on
# a Llama with tied embeddings comes back whole.
#
# Expected: from_pretrained gives the model that was saved, or names the weights it leaves out.
#
# Output seen (losses vary a little by machine):
#   saved factors of: lm_head, transformer.wte
#   saved target_modules: ['transformer.wte', 'wte']
#   loss of the base 4.0658, trained 0.7777, loaded again 4.0241
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 peft==0.21.2 transformers==5.24.0

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
tokens = torch.arange(10)[None]
config = GPT2Config(
    vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
)
GPT2LMHeadModel(config).save_pretrained("base")
model = get_peft_model(
    GPT2LMHeadModel.from_pretrained("base"),
    LoraConfig(r=4, target_modules=["wte", "lm_head"], ensure_weight_tying=True, task_type="CAUSAL_LM"),
)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
model.save_pretrained("adapter")
names = load_file("adapter/adapter_model.safetensors")
print("saved factors of:", ", ".join(sorted({n.split(".lora_")[0].removeprefix("base_model.model.") for n in names})))
with open("adapter/adapter_config.json") as file:
    targets = sorted(json.load(file)["target_modules"])
print("saved target_modules:", targets)
base = GPT2LMHeadModel.from_pretrained("base")
losses = [base.eval()(tokens, labels=tokens).loss.item(), model.eval()(tokens, labels=tokens).loss.item()]
losses.append(PeftModel.from_pretrained(base, "adapter").eval()(tokens, labels=tokens).loss.item())
print("loss of the base {:.4f}, trained {:.4f}, loaded again {:.4f}".format(*losses))
kept = any("lm_head.lora_" in name for name in names)
sys.exit(not (kept and "lm_head" not in targets and losses[2] > losses[1] + 0.1))
PYTHON
