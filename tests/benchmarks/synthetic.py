"""Synthetic checkpoints in real shapes: RoBERTa-large's tensors, with residual spectra like those of real fine-tunes.

Nothing here is a trained model; figures measured on it are about time and memory only, and say "synthetic".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, INNER, VOCABULARY, POSITIONS = 24, 1024, 4096, 50265, 514
DECAY = 0.7
"""Singular values of a residual fall as ``k ** -DECAY``: between rxnfp's (flatter) and MiniLM's (steeper)."""
RELATIVE_NORM = 0.02


def roberta_large_shapes(layers: int = LAYERS) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of a RoBERTa-large encoder."""
    yield "roberta.embeddings.word_embeddings.weight", (VOCABULARY, HIDDEN)
    yield "roberta.embeddings.position_embeddings.weight", (POSITIONS, HIDDEN)
    yield "roberta.embeddings.token_type_embeddings.weight", (1, HIDDEN)
    yield from _pair("roberta.embeddings.LayerNorm", (HIDDEN,))
    for layer in range(layers):
        prefix = f"roberta.encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            yield from _pair(f"{prefix}.{name}", (HIDDEN, HIDDEN))
        yield from _pair(f"{prefix}.attention.output.LayerNorm", (HIDDEN,))
        yield from _pair(f"{prefix}.intermediate.dense", (INNER, HIDDEN))
        yield from _pair(f"{prefix}.output.dense", (HIDDEN, INNER))
        yield from _pair(f"{prefix}.output.LayerNorm", (HIDDEN,))
    yield from _pair("classifier.dense", (HIDDEN, HIDDEN))
    yield from _pair("classifier.out_proj", (3, HIDDEN))


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def base_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one tensor of the base, float32, the same on every call."""
    generator = torch.Generator().manual_seed(hash_of(name))
    if "LayerNorm.weight" in name:
        return 1 + 0.05 * torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator) * 0.04


def residual_tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return one tensor of a fine-tune minus its base: a power-law spectrum, and row-sparse embeddings."""
    generator = torch.Generator().manual_seed(hash_of(f"{name}/{seed}"))
    scale = RELATIVE_NORM * 0.04
    if len(shape) < 2:
        return torch.randn(shape, generator=generator) * scale
    rank = min(64, *shape)
    left, right = (torch.randn(size, rank, generator=generator) for size in shape)
    weights = torch.arange(1, rank + 1, dtype=torch.float32) ** -DECAY
    delta = (left * weights) @ right.T / weights.norm()
    delta += 0.2 * torch.randn(shape, generator=generator)
    if "word_embeddings" in name:
        delta[torch.rand(shape[0], generator=generator) > 0.1] = 0
    return delta * scale


def hash_of(name: str) -> int:
    """Return a seed for a name, the same in every process."""
    return int.from_bytes(name.encode()[-6:], "little") ^ (len(name) << 20) ^ sum(name.encode())


def write_checkpoint(
    directory: Path, dtype: torch.dtype, *, seed: int | None, shards: int = 1, layers: int = LAYERS
) -> int:
    """Write base (`seed` None) or a fine-tune as a sharded Hugging Face directory; return its bytes of weights."""
    directory.mkdir(parents=True, exist_ok=True)
    names = list(roberta_large_shapes(layers))
    each = math.ceil(len(names) / shards)
    where: dict[str, str] = {}
    size = 0
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        tensors = {}
        for name, shape in names[number * each : (number + 1) * each]:
            tensor = base_tensor(name, shape)
            if seed is not None:
                tensor += residual_tensor(name, shape, seed)
            tensors[name] = tensor.to(dtype)
            where[name] = file
            size += tensors[name].numel() * tensors[name].element_size()
        save_file(tensors, directory / file, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["RobertaForSequenceClassification"],
        "model_type": "roberta",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 1,
        "num_labels": 3,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(config))
    return size
