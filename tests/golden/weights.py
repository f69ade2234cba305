"""The checkpoints in the golden store: numbers made of integers alone, so that they can be made again anywhere."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def numbers(shape: tuple[int, ...], seed: int, bits: int = 12) -> torch.Tensor:
    """Float64 multiples of ``2**-bits`` between -1 and 1, from a linear congruential generator."""
    state, values = seed, []
    for _ in range(torch.Size(shape).numel()):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        values.append((state >> 33) % (2 ** (bits + 1)) - 2**bits)
    return torch.tensor(values, dtype=torch.float64).view(shape) / 2**bits


def product(shape: tuple[int, int], rank: int, seed: int) -> torch.Tensor:
    """A matrix of low rank with falling singular values."""
    left, right = (numbers((size, rank), seed + side) for side, size in enumerate(shape))
    return left * 2.0 ** -torch.arange(rank) @ right.T


def base() -> Tensors:
    """Every data type that a base treats differently, and every shape that is a special case."""
    broken = numbers((4, 4), 11).to(torch.float32)
    broken.view(torch.int32)[0, :3] = torch.tensor([0x7FC01234, 0x7F800000, 0x7F800001])
    return {
        "broken.weight": broken,
        "dense.bias": numbers((32,), 12).to(torch.float32),
        "dense.weight": numbers((32, 40), 13).to(torch.bfloat16),
        "double.weight": numbers((6, 5), 14, 30),
        "eight.weight": numbers((8, 8), 15).to(torch.float8_e4m3fn),
        "embed.weight": numbers((48, 32), 16, 20).to(torch.float32),
        "empty.weight": torch.zeros(0, 3),
        "half.weight": numbers((3, 2, 2, 2), 17).to(torch.float16),
        "mask": torch.tensor([True, False, True]),
        "position_ids": torch.arange(6).view(1, 6),
        "scale": torch.tensor(1.5),
        "wave": torch.complex(numbers((3,), 18).float(), numbers((3,), 19).float()),
    }


def tuned(start: Tensors, seed: int, *, noise: float = 2.0**-9, rank: int = 3, decay: float = 0.0) -> Tensors:
    """A low-rank change, noise and weight decay on everything that can be trained."""
    found = {}
    for number, (name, tensor) in enumerate(sorted(start.items())):
        if not tensor.is_floating_point() or name == "broken.weight":
            found[name] = tensor
            continue
        change = numbers(tuple(tensor.shape), seed + number, 20) * noise
        if tensor.ndim == 2:
            change = change + product((tensor.shape[0], tensor.shape[1]), rank, seed + number) / 8
        found[name] = ((1 - decay) * tensor.to(torch.float64) + change).to(tensor.dtype)
    return found


def nudged(start: Tensors, seed: int) -> Tensors:
    """Every number moved to a neighbour, or left where it is."""
    return {
        name: (
            tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
            + (numbers(tuple(tensor.shape), seed) > 0).to(torch.int16)
        ).view(tensor.dtype)
        if tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) and name != "broken.weight"
        else tensor
        for name, tensor in start.items()
    }


def grown(start: Tensors, seed: int) -> Tensors:
    """Two words more, and a head."""
    embedding = torch.cat([start["embed.weight"], numbers((2, 32), seed).to(torch.float32)])
    return start | {"embed.weight": embedding, "head.weight": numbers((2, 32), seed + 1).to(torch.float32)}


def write_directory(directory: Path, tensors: Tensors, note: str) -> Path:
    """Write a checkpoint as transformers does, with a side file that is stored in segments."""
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "golden", "note": note}) + "\n")
    (directory / "vocab.txt").write_text("".join(f"word {number % 97}\n" for number in range(160_000)))
    return directory


def write_torch_file(path: Path, tensors: Tensors) -> Path:
    """Write a training state: a state dict with tied names in other dtypes than the base's, beside a few numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    embedding = torch.nn.Parameter(tensors["embed.weight"].to(torch.bfloat16))
    state = OrderedDict(
        [
            ("embed.weight", embedding),
            ("dense.weight", tensors["dense.weight"].to(torch.float32)),
            ("dense.bias", tensors["dense.bias"].to(torch.float16)),
            ("eight.weight", tensors["eight.weight"].to(torch.float16)),
            ("half.weight", tensors["half.weight"].to(torch.float32)),
            ("double.weight", tensors["double.weight"].to(torch.float32)),
            ("head.weight", tensors["dense.weight"][:2, :32].contiguous()),
            ("decoder.weight", embedding),
        ]
    )
    torch.save({"epoch": 3, "rate": 0.1, "model": state, "betas": (0.9, 0.999), "note": b"\x00\xff"}, path)
    return path


def write_adapter(directory: Path, base_path: str) -> Path:
    """Write an adapter of two layers as PEFT does."""
    directory.mkdir(parents=True)
    tensors = {}
    for number, (layer, (outputs, inputs)) in enumerate({"dense": (32, 40), "embed": (48, 32)}.items()):
        prefix = f"base_model.model.{layer}.lora_"
        tensors[f"{prefix}A.weight"] = numbers((4, inputs), 70 + number).to(torch.float32)
        tensors[f"{prefix}B.weight"] = numbers((outputs, 4), 80 + number).to(torch.float32)
    tensors = {name: tensor.to(torch.bfloat16) if "embed" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    configuration = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 3,
        "target_modules": ["dense", "embed"],
        "base_model_name_or_path": base_path,
        "fan_in_fan_out": False,
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(configuration) + "\n")
    return directory
