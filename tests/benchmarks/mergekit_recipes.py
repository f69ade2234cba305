"""The same merge configuration followed by erestore and by mergekit: how far apart the weights are.

Run by hand, with the path of a Python that has mergekit (0.1.5 was compared)::

    PYTHONPATH=. python tests/benchmarks/mergekit_recipes.py /path/to/python

A small Llama and three fine-tunes of it, of rank 4 and some noise, are committed at the smallest error and checked out, so
that both tools work on the same weights; once in float32, once in bfloat16. A distance over all tensors is
``norm(ours - theirs) / norm(theirs - base)``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASE = "base_model: base\n"
MODELS = "models:\n  - model: a\n    parameters: {weight: 0.7}\n  - model: b\n    parameters: {weight: 0.6}\n"
PLAIN = "models: [{model: a}, {model: b}]\n"
RECIPES = {
    "linear": "merge_method: linear\n" + MODELS,
    "linear, base counted": "merge_method: linear\nparameters: {weight: 1}\n" + BASE + PLAIN,
    "linear, not normalised": "merge_method: linear\nparameters: {normalize: false, weight: 0.5}\n" + PLAIN,
    "task_arithmetic": "merge_method: task_arithmetic\nparameters: {lambda: 0.8}\n" + BASE + MODELS,
    "task_arithmetic, normalised": "merge_method: task_arithmetic\nparameters: {normalize: true}\n" + BASE + MODELS,
    "ties": "merge_method: ties\nparameters: {density: 0.3, int8_mask: true}\n" + BASE + MODELS,
    "ties, not normalised": "merge_method: ties\nparameters: {density: 0.3, normalize: false, lambda: 0.5}\n"
    + BASE
    + MODELS,
    "ties, three models": "merge_method: ties\nparameters: {density: 0.3, weight: 1}\n"
    + BASE
    + "models: [{model: a}, {model: b}, {model: c}]\n",
    "ties, three models, few kept": "merge_method: ties\nparameters: {density: 0.01, weight: 1}\n"
    + BASE
    + "models: [{model: a}, {model: b}, {model: c}]\n",
    "dare_linear, all kept": "merge_method: dare_linear\n" + BASE + MODELS,
    "dare_linear": "merge_method: dare_linear\nparameters: {density: 0.5}\n" + BASE + MODELS,
    "dare_ties, all kept": "merge_method: dare_ties\n" + BASE + MODELS,
    "slerp": "merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n" + PLAIN,
    "slerp, second first": "merge_method: slerp\nbase_model: b\nparameters: {t: 0.3}\n" + PLAIN,
    "slerp, ours linear": "merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n" + PLAIN,
    "model_stock": "merge_method: model_stock\n" + BASE + PLAIN,
}
AS_LINEAR = (
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.7}}, {model: b, parameters: {weight: 0.3}}]\n"
)
THEIRS = """
import sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
options = MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False)
run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], options)
"""


def prepare(folder: Path, dtype: str) -> None:
    """Make ``base/``, ``a/``, ``b/`` and ``c/`` as a store gives them back."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from erestore import Store
    from erestore.encoding.quality import SMALLEST_MAX_ERROR, Quality

    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)
    base = LlamaForCausalLM(config).to(getattr(torch, dtype))
    base.save_pretrained(folder / "base")
    store = Store.init(folder / "store")
    store.import_base(folder / "base", name="base")
    for name in ("a", "b", "c"):
        tuned = LlamaForCausalLM(config).to(base.dtype)
        tuned.load_state_dict(base.state_dict())
        with torch.no_grad():
            for tensor in tuned.parameters():
                change = 1e-4 * torch.randn(tensor.shape)
                if tensor.ndim == 2:
                    change += 1e-3 * torch.randn(len(tensor), 4) @ torch.randn(4, tensor.shape[1])
                tensor.copy_(tensor.float() + change)
        tuned.save_pretrained(folder / "tuned")
        store.commit(folder / "tuned", base="base", name=name, quality=Quality(max_error=SMALLEST_MAX_ERROR))
        store.checkout(name, folder / name)


def distance(folder: Path) -> float:
    from safetensors.torch import load_file

    ours, theirs, base = (load_file(folder / name / "model.safetensors") for name in ("ours", "theirs", "base"))
    apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in base)
    moved = sum(float((theirs[name].double() - base[name].double()).square().sum()) for name in base)
    return float((apart / moved) ** 0.5)


def main() -> None:
    # Links in a virtual environment stay links: it is found by the name.
    mergekit = os.path.abspath(sys.argv[1])  # noqa: PTH100
    for dtype in ("float32", "bfloat16"):
        print(dtype)
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), dtype, mergekit)


def compare(folder: Path, dtype: str, mergekit: str) -> None:
    """Follow every recipe with both tools and print how far apart they are."""
    from erestore import Store
    from erestore.encoding.quality import SMALLEST_MAX_ERROR

    prepare(folder, dtype)
    store = Store.open(folder / "store")
    recipe = folder / "recipe.yaml"
    for name, text in RECIPES.items():
        for each in ("ours", "theirs"):
            shutil.rmtree(folder / each, ignore_errors=True)
        computed = SMALLEST_MAX_ERROR if text.startswith(("merge_method: ties", "merge_method: dare")) else None
        recipe.write_text(AS_LINEAR if "ours linear" in name else text)
        done = store.merge_recipe(recipe, name="merged", max_error=computed)
        store.checkout("merged", folder / "ours")
        recipe.write_text(text)
        command = [mergekit, "-c", THEIRS, str(recipe), "theirs"]
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=clean)
        if ran.returncode:
            print(f"{name:30} mergekit failed: {ran.stderr.strip().splitlines()[-1]}")
            continue
        print(f"{name:30} {distance(folder):9.1e}  {done.differs}", flush=True)


if __name__ == "__main__":
    main()
