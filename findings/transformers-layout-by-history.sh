#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: save_original_format=True, the default, does not write
# the original format when the model came from a folder saved without it.
#
# Behaviour: a Mixtral is saved by default with one tensor per expert under the names that its
# authors published (block_sparse_moe.experts.0.w1.weight), and with
# save_original_format=False with its experts fused (mlp.experts.gate_up_proj). Loaded from the
# latter, the same model is saved fused whatever the option says. A model made from the same
# config with the same state dict is saved in the original format.
#
# Expected: that the option decides, as its name and its default say: two models with equal
# config, class and weights then have equal files. Tools that read the original names do not find
# their experts, and nothing in config.json tells the two kinds of folder apart.
#
# Output seen (tensors of the experts and router):
#   new model, default: 7, block_sparse_moe.experts.0.w1.weight ...
#   new model, save_original_format=False: 3, mlp.experts.down_proj ...
#   loaded from that, save_original_format=True: 3, mlp.experts.down_proj ...
#   its state dict in a new model, save_original_format=True: 7, block_sparse_moe.experts.0.w1.weight ...
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0

cd "$folder"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
import sys

from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

config = MixtralConfig(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_local_experts=2,
)


def saved(model, folder, words, **options):
    """The names that a save gives to the experts and the router."""
    model.save_pretrained(folder, **options)
    names = sorted(n.removeprefix("model.layers.0.") for n in load_file(f"{folder}/model.safetensors"))
    names = [n for n in names if n.startswith(("block_sparse_moe.", "mlp."))]
    print(f"{words}: {len(names)}, {names[0]} ...")
    return names


model = MixtralForCausalLM(config)
original = saved(model, "original", "new model, default")
fused = saved(model, "fused", "new model, save_original_format=False", save_original_format=False)
again = MixtralForCausalLM.from_pretrained("fused")
resaved = saved(again, "resaved", "loaded from that, save_original_format=True", save_original_format=True)
copy = MixtralForCausalLM(again.config)
copy.load_state_dict(again.state_dict())
copied = saved(
    copy, "copied", "its state dict in a new model, save_original_format=True", save_original_format=True
)
sys.exit(not (resaved == fused != original == copied))
PYTHON
