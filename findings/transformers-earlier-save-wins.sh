#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: a model saved into the folder of an earlier, smaller
# save is not the one that from_pretrained gives back.
#
# Behaviour: the first save fits one file and is model.safetensors. The second is over
# max_shard_size and is model-0000N-of-0000M.safetensors with an index. save_pretrained removes
# an earlier save's shards but not its single file, and from_pretrained looks for the single
# file first: it loads the earlier weights without a warning. The config is the later one.
#
# Expected: that what was saved last is loaded, as it is when both saves are of one layout or
# when the single file is the later one.
#
# Output seen:
#   in the folder: model-00001-of-00003.safetensors, model-00002-of-00003.safetensors, model-00003-of-00003.safetensors, model.safetensors, model.safetensors.index.json
#   loaded: the earlier weights
#   the other way round, loaded: the later weights
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import os
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
)
earlier, later = LlamaForCausalLM(config), LlamaForCausalLM(config)


def loaded(folder):
    """Which of the two models the folder gives back."""
    head = LlamaForCausalLM.from_pretrained(folder).lm_head.weight
    return "the earlier" if torch.equal(head, earlier.lm_head.weight) else "the later"


earlier.save_pretrained("model")
later.save_pretrained("model", max_shard_size="10KB")
print("in the folder:", ", ".join(sorted(n for n in os.listdir("model") if n.startswith("model"))))
first = loaded("model")
print("loaded:", first, "weights")
earlier.save_pretrained("reverse", max_shard_size="10KB")
later.save_pretrained("reverse")
second = loaded("reverse")
print("the other way round, loaded:", second, "weights")
sys.exit((first, second) != ("the earlier", "the later"))
PYTHON
