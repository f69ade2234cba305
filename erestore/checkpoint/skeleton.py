"""What a torch file holds besides tensors, as JSON: the skeleton that puts the tensors back in place.

``None``, booleans, integers and strings stand for themselves. Anything else is an object whose key names its type::

    {"float": "3ff8000000000000"}      IEEE 754 bits, so that NaN payloads survive
    {"complex": [bits, bits]}          {"bytes": hex}  {"bytearray": hex}
    {"list": [...]}  {"tuple": [...]}  {"set": [...]}  {"Size": [...]}
    {"dict": [[key, value], ...]}      likewise OrderedDict and Counter; attributes beside them under "attributes"
    {"dtype": "float32"}  {"device": "cuda:0"}
    {"tensor": name}                   "parameter": true if it was an nn.Parameter, "requires_grad": true if it was set
"""

from __future__ import annotations

import collections
import itertools
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from erestore.errors import CheckpointError, CorruptionError

if TYPE_CHECKING:
    import torch

DEEPEST = 64
"""Levels of nesting accepted; a cycle is deeper than any."""

MOST_VALUES = 2_000_000
"""Values accepted. Lists that hold each other many times can mean more of them than any memory holds."""

DTENSOR = "of which every process saved its own part (FSDP2, tensor parallelism)"
GATHER = (
    "Save whole tensors on all processes: "
    "torch.save({name: getattr(t, 'full_tensor', lambda: t)() for name, t in model.state_dict().items()}, path)."
)

_MAPPINGS: dict[str, type[dict[Any, Any]]] = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
}
_LARGE_SHARE = 0.75
"""Part of the tensors of the largest dictionary that a state dict has at least."""
_AVERAGES = ("ema", "swa", "averag", "teacher", "target")
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")


def dismantle(content: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Separate the tensors of a loaded torch file from everything else.

    Parameters
    ----------
    content : object
        What ``torch.load`` gave.

    Returns
    -------
    tensors : dict of str to torch.Tensor
        In file order. The dictionary that holds most tensors is the state dict: its tensors have their own keys as
        names; any other tensor is named by its path, with slashes.
    structure : object or None
        The skeleton, or None if `content` is a plain ``dict`` of plain tensors.

    Raises
    ------
    CheckpointError
        If it holds a type that cannot be kept, or no tensor at all.
    """
    import torch

    state_dict = _find_state_dict(content)
    used = {key for key, value in state_dict.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    tensors: dict[str, torch.Tensor] = {}

    def name_of(path: tuple[str, ...], *, is_own: bool) -> str:
        if is_own:
            return path[-1]
        name = "/".join(path) or "tensor"
        while name in used:
            name = "/" + name
        used.add(name)
        return name

    count = itertools.count()

    def encode(value: Any, path: tuple[str, ...], *, is_own: bool = False) -> Any:
        if next(count) > MOST_VALUES:
            raise CheckpointError(f"The file holds more than {MOST_VALUES} values.", hint="Save its state dict alone.")
        if len(path) > DEEPEST:
            raise CheckpointError(
                f"The file nests deeper than {DEEPEST} levels at '{'/'.join(path[:4])}'.",
                hint="Save its state dict alone.",
            )
        if isinstance(value, torch.Tensor):
            name = name_of(path, is_own=is_own)
            tensors[name] = value
            return _placeholder(value, name)
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind.__name__ in _MAPPINGS and kind is _MAPPINGS[kind.__name__]:
            pairs = [
                [
                    encode(key, (*path, "key")),
                    encode(item, (*path, str(key)), is_own=value is state_dict and isinstance(key, str)),
                ]
                for key, item in value.items()
            ]
            attributes = getattr(value, "__dict__", None)
            extra = {"attributes": encode(attributes, (*path, "attributes"))} if attributes else {}
            return {kind.__name__: pairs, **extra}
        if kind in (list, tuple, torch.Size):
            return {kind.__name__: [encode(item, (*path, str(i))) for i, item in enumerate(value)]}
        if kind is set:  # sorted, since the order of a set differs from run to run
            return {"set": sorted((encode(item, (*path, "item")) for item in value), key=repr)}
        return _scalar(value, "/".join(path))

    structure = encode(content, ())
    if not tensors:
        raise CheckpointError(
            "The file holds no tensors.", hint="Save a state dict: torch.save(model.state_dict(), path)."
        )
    plain = {"dict": [[name, {"tensor": name}] for name in tensors]}
    return tensors, None if structure == plain else structure


def assemble(structure: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Put tensors back into a skeleton; the inverse of :func:`dismantle`.

    Raises
    ------
    CorruptionError
        If the skeleton is malformed, names a tensor that is not there, or leaves one out.
    """
    import torch

    placed: set[str] = set()
    sequences = {"list": list, "tuple": tuple, "set": set, "Size": torch.Size}

    def tensor(node: dict[str, Any]) -> torch.Tensor:
        placed.add(node["tensor"])
        value = tensors[node["tensor"]]
        if node.get("parameter"):
            return torch.nn.Parameter(value, requires_grad=bool(node.get("requires_grad")))
        # A tied tensor may be marked at one place only: the mark goes on a view of its own.
        return value.detach().requires_grad_() if node.get("requires_grad") else value

    def decode(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "tensor" in node:
            return tensor(node)
        (kind,) = set(node) - {"attributes"}
        value = node[kind]
        if kind in sequences:
            return sequences[kind](decode(item) for item in value)
        if kind in _MAPPINGS:
            mapping = _MAPPINGS[kind]()
            for key, item in value:  # update() would count the pairs of a Counter
                mapping[decode(key)] = decode(item)
            if "attributes" in node:
                mapping.__dict__.update(decode(node["attributes"]))
            return mapping
        return _decode_scalar(kind, value)

    try:
        content = decode(structure)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, RuntimeError) as error:
        raise CorruptionError("The skeleton of a torch file is malformed.") from error
    if missing := sorted(set(tensors) - placed):
        raise CorruptionError(f"The skeleton of a torch file has no place for '{missing[0]}'.")
    return content


def state_dict_names(structure: Any) -> frozenset[str]:
    """Return the names of tensors that are entries of the state dict itself.

    Any other tensor is named by its path, so that its name is its key only where that path has one step.

    Parameters
    ----------
    structure : object
        A skeleton, or skeletons by file name.
    """
    names = set[str]()
    nodes = [structure]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
            if (
                len(node) == 2
                and isinstance(node[1], dict)
                and isinstance(node[0], str)
                and node[1].get("tensor") == node[0]
            ):
                names.add(node[0])
    return frozenset(names)


def _find_state_dict(content: Any) -> dict[Any, Any]:
    """Return the dictionary with the likeliest key among those that hold most tensors; then the largest, then the first.

    An average holds a few more than the model, such as torch's ``n_averaged``.
    """
    import torch

    counts = [
        (sum(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items()), key, value)
        for key, value in _dictionaries(content, "", set())
    ]
    most = max((count for count, _, _ in counts), default=0)
    largest = [row for row in counts if row[0] and row[0] >= _LARGE_SHARE * most]
    return max(largest, key=lambda row: (_likelihood(row[1]), row[0]), default=(0, "", {}))[2]


def _likelihood(key: str) -> int:
    """Return how likely a key is to be that of a state dict; averages are the least likely."""
    if key in _STATE_DICT_KEYS:
        return len(_STATE_DICT_KEYS) - _STATE_DICT_KEYS.index(key)
    return -int(any(word in key.lower() for word in _AVERAGES))


def _dictionaries(value: Any, key: str, visited: set[int]) -> Iterator[tuple[str, dict[Any, Any]]]:
    if not isinstance(value, dict | list | tuple) or id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, dict):
        yield key, value
    for name, item in value.items() if isinstance(value, dict) else ((key, item) for item in value):
        yield from _dictionaries(item, str(name), visited)


def _placeholder(value: torch.Tensor, name: str) -> dict[str, Any]:
    import torch

    if type(value).__name__ == "DTensor":
        raise CheckpointError(f"The tensor '{name}' is a DTensor, {DTENSOR}.", hint=GATHER)
    if value.is_nested:
        raise CheckpointError(
            f"The tensor '{name}' is a nested tensor, which erestore does not keep.",
            hint="Save its parts as tensors of their own (tensor.unbind()), or padded (to_padded_tensor(0)).",
        )
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_meta:
        raise CheckpointError(
            f"The tensor '{name}' is not a plain dense tensor, which is all that erestore keeps.",
            hint="Convert it (to_dense(), dequantize()) and save the state dict again.",
        )
    node: dict[str, Any] = {"tensor": name}
    if isinstance(value, torch.nn.Parameter):
        node["parameter"] = True
    if value.requires_grad:
        node["requires_grad"] = True
    return node


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()


def _scalar(value: Any, path: str) -> Any:
    import torch

    match value:
        case float():
            return {"float": _bits(value)}
        case complex():
            return {"complex": [_bits(value.real), _bits(value.imag)]}
        case bytes() | bytearray():
            return {type(value).__name__: value.hex()}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": str(value)}
    kind = type(value)
    raise CheckpointError(
        f"The file holds a {kind.__module__}.{kind.__qualname__} at '{path}', which cannot be kept.",
        hint="Save the state dict alone: torch.save(model.state_dict(), path).",
    )


def _decode_scalar(kind: str, value: Any) -> Any:
    import torch

    def number(bits: str) -> float:
        return float(struct.unpack(">d", bytes.fromhex(bits))[0])

    match kind:
        case "float":
            return number(value)
        case "complex":
            real, imaginary = value
            return complex(number(real), number(imaginary))
        case "bytes":
            return bytes.fromhex(value)
        case "bytearray":
            return bytearray.fromhex(value)
        case "device":
            return torch.device(value)
        case "dtype" if isinstance(dtype := getattr(torch, value), torch.dtype):
            return dtype
    raise ValueError(kind)
