"""A second reader of the store format, written from docs/format.md alone: no erestore, no torch.

It reads a store in a directory, from the newest entry of a ref down to every tensor's bytes, in as straight a line as that
allows, and checks every digest on the way. Section numbers are those of the document.
"""

from __future__ import annotations

import json
import math
import re
import struct
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import zstandard
from blake3 import blake3
from float_formats import FORMATS, rounded_bits, value_of
from pcodec import wrapped

KINDS = {
    "blob": 1,
    "tensors": 2,
    "base": 3,
    "residual": 4,
    "patch": 5,
    "layout": 6,
    "manifest": 7,
    "commit": 8,
    "note": 9,
}
WIDTHS = (0, 2, 4, 8, 16, 32)
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "C64": 64, "BOOL": 8}


def canonical(value: object) -> bytes:
    """§4."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(content: bytes) -> dict:
    value = json.loads(content)
    assert canonical(value) == content
    return value


def expand(stage: str, stored: bytes, length: int) -> bytes:
    """§3.3."""
    if stage.startswith("words"):
        word = int(stage.removeprefix("words"))
        assert word in (2, 4, 8)
        values = unchunk(stored[1:], length // word, word)
        content = b"".join((value << stored[0]).to_bytes(16, "little", signed=True)[:word] for value in values)
        assert len(content) == length
        return content
    if stage == "runs":
        return expand_runs(stored, length)
    assert stage in ("raw", "zstd")
    content = stored if stage == "raw" else zstandard.ZstdDecompressor().decompress(stored, max_output_size=length)
    assert len(content) == length
    return content


def directory_of(stored: bytes) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]], bytes]:
    """§3.3: groups as width, runs and elements; chunks as width and stored length; classes of the runs of integers."""
    raw, packed = struct.unpack_from("<II", stored)
    directory = expand("zstd", stored[8 : 8 + packed], raw)
    number_of_groups, number_of_chunks = struct.unpack_from("<II", directory)
    assert number_of_groups <= 65536
    assert number_of_chunks <= 256
    chunks_at = 8 + 9 * number_of_groups
    groups = list(struct.iter_unpack("<BII", directory[8:chunks_at]))
    classes_at = chunks_at + 5 * number_of_chunks
    return groups, list(struct.iter_unpack("<BI", directory[chunks_at:classes_at])), directory[classes_at:]


def expand_runs(stored: bytes, length: int) -> bytes:
    """§3.3."""
    groups, chunks, classes = directory_of(stored)
    assert all(width in (1, 2, 4) and runs and elements for width, runs, elements in groups)
    numbers, used = [], 0
    for width, runs, _ in groups:
        numbers.append([len(chunks)] * runs if width == 1 else list(classes[used : used + runs]))
        used += 0 if width == 1 else runs
    assert used == len(classes)
    counts = [0] * (len(chunks) + 1)
    for (width, _, elements), chosen in zip(groups, numbers, strict=True):
        for number in chosen:
            assert number == 0 or chunks[number - 1][0] == width
            counts[number] += elements
    position = 8 + struct.unpack_from("<II", stored)[1]
    streams = [b""]
    for (width, size), count in zip(chunks, counts[1:], strict=True):
        assert count
        chunk = stored[position : position + size]
        position += size
        if width == 1:
            streams.append(expand("zstd", chunk, count))
        else:
            streams.append(np.array(unchunk(chunk, count, width), dtype=f"<i{width}").tobytes())
    assert position == len(stored)
    content, taken = [], [0] * len(streams)
    for (width, _, elements), chosen in zip(groups, numbers, strict=True):
        for number in chosen:
            size = width * elements
            content.append(streams[number][taken[number] : taken[number] + size] if number else bytes(size))
            taken[number] += size
    whole = b"".join(content)
    assert len(whole) == length
    return whole


class Reader:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        marker = parse((directory / "erestore.json").read_bytes())
        assert marker["erestore"] == 1
        assert marker["read"] == []
        assert not (directory / "features").exists()

    def stored(self, oid: str) -> bytes:
        return (self.directory / "objects" / oid[:2] / oid[2:]).read_bytes()

    def record(self, kind: str, oid: str) -> dict:
        return parse(self.frame(kind, oid))

    def frame(self, kind: str, oid: str) -> bytes:
        """§3.1."""
        stored = self.stored(oid)
        magic, version, number, compression, reserved, length, check = struct.unpack("<4sBBBBI4s", stored[:16])
        assert (magic, version, number, reserved) == (b"EREO", 1, KINDS[kind], 0)
        assert blake3(stored[:12] + stored[16:]).digest()[:4] == check
        content = expand(("raw", "zstd")[compression], stored[16:], length)
        assert blake3(f"{kind} {length}\0".encode() + content).hexdigest() == oid
        return content

    def segmented(self, kind: str, oid: str) -> tuple[dict, list[bytes]]:
        """§3.2."""
        stored = self.stored(oid)
        magic, version, number, compression, power = struct.unpack("<4sBBBB", stored[:8])
        stored_length, length, check = struct.unpack("<II4s", stored[8:20])
        assert (magic, version, number) == (b"ERES", 1, KINDS[kind])
        head = stored[20 : 20 + stored_length]
        assert blake3(stored[:16] + head).digest()[:4] == check
        content = expand(("raw", "zstd")[compression], head, length)
        alignment = 2**power
        assert blake3(f"{kind} segmented {alignment} {length}\0".encode() + content).hexdigest() == oid
        index, end, segments = parse(content), 20 + stored_length, []
        for segment_length, raw_length, stage, digest in index["segments"]:
            start = -(-end // alignment) * alignment if segment_length else end
            assert not any(stored[end:start])
            end = start + segment_length
            assert blake3(stored[start:end]).hexdigest() == digest
            segments.append(expand(stage, stored[start:end], raw_length))
        assert end == len(stored)
        return index, segments

    def moments(self, note: str, key: str) -> list[list[list[float]]]:
        """§5.8: the second moments of every block of a matrix's inputs."""
        index, segments = self.segmented("note", note)
        columns, first = index["tensors"][key]
        number, blocks = -(-columns // 1024), []
        for block in range(number):
            size = (block + 1) * columns // number - block * columns // number
            squares = struct.unpack(f"<{size}f", segments[first + block][: 4 * size])
            below = iter(struct.unpack(f"<{size * (size - 1) // 2}e", segments[first + block][4 * size :]))
            rows = [[next(below) for _ in range(row)] for row in range(size)]
            blocks.append(
                [
                    [
                        squares[a] if a == b else rows[max(a, b)][min(a, b)] * math.sqrt(squares[a] * squares[b])
                        for b in range(size)
                    ]
                    for a in range(size)
                ]
            )
        return blocks

    def blob(self, oid: str) -> bytes:
        if self.stored(oid)[:4] == b"EREO":
            return self.frame("blob", oid)
        return b"".join(self.segmented("blob", oid)[1])

    def refs(self) -> dict[str, str | None]:
        """§6."""
        found = {}
        for directory in (self.directory / "refs").iterdir():
            newest = max(directory.iterdir())
            assert re.fullmatch(r"[0-9]{16}", newest.name)
            found[unquote(directory.name)] = parse(newest.read_bytes())["oid"]
        return found

    def manifest_of(self, commit: str) -> dict:
        return self.record("manifest", self.record("commit", commit)["manifest"])

    def whole(self, tensor: list) -> bytes:
        """§5.2."""
        dtype, shape, digest, (oid, first, number) = tensor
        content = b"".join(self.segmented("tensors", oid)[1][first : first + number])
        assert blake3(f"{dtype} {shape}\0".encode() + content).hexdigest() == digest
        return content

    def tensors(self, manifest: dict) -> dict[str, bytes]:
        """Return the bytes of every tensor by the variant's own name."""
        layout = self.record("layout", manifest["layout"])
        known: dict[tuple, bytes] = {}
        for key, dtype, shape in layout["tensors"].values():
            place = key, dtype, tuple(shape)
            if place not in known:
                known[place] = self.stored_value(manifest, *place)
        return {name: known[key, dtype, tuple(shape)] for name, (key, dtype, shape) in layout["tensors"].items()}

    def files(self, manifest: dict) -> dict[str, tuple[str, list[str]]]:
        """§5.3: format of every weight file, and the names inside it."""
        layout = self.record("layout", manifest["layout"])
        modules = layout.get("modules", {})
        assert modules or "modules" not in layout
        assert set(modules) <= {path.rpartition("/")[0] for path, _, _ in layout["files"]} - {""}
        found = {}
        for path, own, _ in layout["files"]:
            folder = path.rpartition("/")[0]
            prefix = folder + "/" if folder in modules else ""
            assert all(name.startswith(prefix) for name in own)
            found[path] = modules.get(folder, layout["format"]), [name[len(prefix) :] for name in own]
        return found

    def stored_value(self, manifest: dict, key: str, dtype: str, shape: tuple[int, ...]) -> bytes:
        """§8.4: the rounded value, and the exact remainder if there is one."""
        if manifest["patch"] is None or key not in (patch := self.segmented("patch", manifest["patch"]))[0]["tensors"]:
            return self.rounded(manifest, key, dtype, shape)
        index, segments = patch
        held = index["tensors"][key]
        assert (held["dtype"], held["shape"]) == (dtype, list(shape))
        kind, *rest = held["predictor"]
        if kind == "linear":
            predicted = self.rounded(manifest, key, dtype, shape)
        elif kind == "base":
            predicted = self.rounded(manifest | {"terms": [], "dense": {}, "digests": {}}, key, dtype, shape)
        else:
            predicted = self.stored_value(self.record("manifest", rest[0]), key, dtype, shape)
        parts = place_parts(index, segments, lambda tensor: [tensor["parts"]])[key][0]
        if held["codec"] == "classed":
            value = add_classed(predicted, parts, dtype, matrix(shape)[1])
        else:
            assert held["codec"] == "difference"
            coded = b"".join(from_planes(part, BITS.get(dtype, 8) // 8) for part in parts)
            value = add_difference(predicted, coded, dtype)
        assert blake3(value).hexdigest(length=16) == held["digest"]
        return value

    def rounded(self, manifest: dict, key: str, dtype: str, shape: tuple[int, ...]) -> bytes:
        """§8.3."""
        if key in manifest["dense"]:
            return self.combined(manifest["dense"][key], dtype)
        base = self.record("base", manifest["base"])["tensors"][key]
        if dtype not in FORMATS:
            assert (base[0], tuple(base[1])) == (dtype, shape)
            return self.whole(base)
        rows, columns = matrix(shape)
        base_rows, base_columns = matrix(base[1])
        assert columns == base_columns
        shared = min(rows, base_rows)
        original = self.whole(base)
        residuals = [(oid, *self.segmented("residual", oid), number(text)) for oid, text in manifest["terms"]]
        touching = [each for each in residuals if key in each[1]["tensors"]]
        if not touching and base[0] == dtype:
            value = original[: shared * columns * BITS.get(dtype, 8) // 8]
        else:
            numbers = doubles(original, base[0]).reshape(base_rows, columns)[:shared]
            value = rounded_bytes(linear(numbers, touching, key), dtype)
        if key in manifest["digests"]:
            assert blake3(value).hexdigest(length=16) == manifest["digests"][key]
        if rows > shared:
            value += self.combined(manifest["rows"][key], dtype)
        return value

    def combined(self, parts: list, dtype: str) -> bytes:
        """§8.5."""
        if len(parts) == 1 and parts[0][0] == "1" and parts[0][1][0] == dtype:
            return self.whole(parts[0][1])
        total: np.ndarray | float = 0.0
        for text, tensor in parts:
            total = total + doubles(self.whole(tensor), tensor[0]) * number(text)
        return rounded_bytes(np.asarray(total), dtype)


def matrix(shape: tuple[int, ...] | list[int]) -> tuple[int, int]:
    """§7.1."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def number(text: str) -> float:
    """§5.5: a decimal is a float64, a fraction the float64 nearest to it."""
    return float(text) if re.search(r"[.e]", text) else float(Fraction(text))


def doubles(content: bytes, dtype: str) -> np.ndarray:
    if dtype in ("F64", "F32", "F16"):
        return np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)
    stored = np.frombuffer(content, "<u2" if dtype == "BF16" else "u1")
    table = {bits: value_of(bits, dtype) for bits in set(stored.tolist())}
    return np.array([table[bits] for bits in stored.tolist()])


def rounded_bytes(values: np.ndarray, dtype: str) -> bytes:
    """§8.2."""
    size = FORMATS[dtype].bits // 8
    return b"".join(rounded_bits(value, dtype).to_bytes(size, "little") for value in values.reshape(-1).tolist())


def place_parts(index: dict, segments: list[bytes], lists) -> dict[str, list[list[bytes]]]:
    """§7.3: parts follow each other in every segment in the order of the sorted keys."""
    used, found = [0] * len(segments), {}
    for key in sorted(index["tensors"]):
        found[key] = []
        for stored in lists(index["tensors"][key]):
            parts = []
            for segment, length in stored:
                parts.append(segments[segment][used[segment] : used[segment] + length])
                assert len(parts[-1]) == length
                used[segment] += length
            found[key].append(parts)
    assert used == list(map(len, segments))
    return found


def linear(base: np.ndarray, touching: list, key: str) -> np.ndarray:
    """§8.1."""
    total = base.copy()
    for _, index, segments, coefficient in touching:
        assert index["evaluator"] == 1
        tensor = index["tensors"][key]
        rows, columns = matrix(tensor["shape"])
        rows = min(rows, len(base))
        all_rows = matrix(tensor["shape"])[0]
        parts = place_parts(index, segments, lambda held: [section[2] for section in held["sections"]])[key]
        residual = None
        for (codec, parameters, _), held in zip(tensor["sections"], parts, strict=True):
            value = SECTIONS[codec](parameters, held, (all_rows, columns), base)[:rows]
            residual = value if residual is None else residual + value
        total[:rows] = total[:rows] + residual * coefficient
    return total


def dyadic(pair: list[int]) -> float:
    return math.ldexp(pair[0], pair[1])


def gamma(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    assert not parts
    return base[: shape[0]] * dyadic(parameters["gamma"])


def vector(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    codes, left = [], shape[0] * shape[1]
    for part in parts:
        length = min(left, 2**20)
        codes += unpack(part[1:], length, WIDTHS[part[0]])
        left -= length
    return np.array(codes, dtype=np.float64).reshape(shape) * dyadic(parameters["step"])


def unpack(content: bytes, length: int, width: int) -> list[int]:
    """§7.4: one column of codes."""
    half = 1 << (width - 1) if width else 0
    assert len(content) == (length * width + 7) // 8
    if width == 0:
        return [0] * length
    if width > 8:
        planes = [content[plane * length : (plane + 1) * length] for plane in range(width // 8)]
        return [int.from_bytes(digits, "little") - half for digits in zip(*planes, strict=True)]
    bits = int.from_bytes(content, "little")
    return [((bits >> (place * width)) & ((1 << width) - 1)) - half for place in range(length)]


def from_planes(content: bytes, size: int) -> bytes:
    """§7.5."""
    return np.frombuffer(content, np.uint8).reshape(size, -1).T.tobytes() if content else b""


def dense(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    dtype = parameters["dtype"]
    return doubles(b"".join(from_planes(part, BITS[dtype] // 8) for part in parts), dtype).reshape(shape)


def lowrank(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    m, n = shape
    left, right, multipliers, start, stop = [], [], [], 0, 2
    for part in parts:
        columns = min(stop, parameters["rank"]) - start
        low, high, shifts, widths = (part[columns * i : columns * (i + 1)] for i in range(4))
        multipliers += [(a + 256 * b) << s for a, b, s in zip(low, high, shifts, strict=True)]
        position = 4 * columns
        for side, length, indices in ((left, m, [w & 15 for w in widths]), (right, n, [w >> 4 for w in widths])):
            held = {}
            for column in sorted(range(columns), key=lambda k, indices=indices: (indices[k], k)):
                size = (length * WIDTHS[indices[column]] + 7) // 8
                held[column] = unpack(part[position : position + size], length, WIDTHS[indices[column]])
                position += size
            side += [held[column] for column in range(columns)]
        assert position == len(part)
        start, stop = stop, 2 * stop
    assert len(left) == parameters["rank"] == sum(components for components, _ in parameters["groups"])
    total, start = np.zeros(shape), 0
    for number_of_group, (components, exponent) in enumerate(parameters["groups"]):
        members = range(start, start + components)
        largest = [max(map(abs, side[k]), default=0) for k in members for side in (left, right)]
        bound = sum(multipliers[k] * largest[2 * i] * largest[2 * i + 1] for i, k in enumerate(members))
        assert bound < 2**53
        exact = [
            [sum(multipliers[k] * left[k][i] * right[k][j] for k in members if left[k][i]) for j in range(n)]
            for i in range(m)
        ]
        group = np.array(exact, dtype=np.float64).reshape(shape) * math.ldexp(1.0, exponent)
        total = group if number_of_group == 0 else total + group
        start += components
    return total


def lowrank2(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    rank, (m, n) = parameters["rank"], shape
    left, right, multipliers, start, stop = np.zeros((m, 0)), np.zeros((n, 0)), [], 0, 4
    for part in parts:
        columns = min(stop, rank) - start
        width = part[0]
        assert width in (2, 4)
        assert len(part) == 1 + columns * (2 + width * (m + n))
        mantissas, shifts = part[1 : 1 + columns], part[1 + columns : 1 + 2 * columns]
        assert min(mantissas) >= 1
        assert max(shifts) <= 48
        multipliers += [a << s for a, s in zip(mantissas, shifts, strict=True)]
        codes = np.frombuffer(part[1 + 2 * columns :], f"<i{width}").astype(np.int64)
        left = np.concatenate([left, codes[: columns * m].reshape(columns, m).T], axis=1)
        right = np.concatenate([right, codes[columns * m :].reshape(columns, n).T], axis=1)
        start, stop = stop, 4 * stop
    assert left.shape[1] == rank == sum(components for components, _ in parameters["groups"])
    total, start = np.zeros(shape), 0
    for components, exponent in parameters["groups"]:
        members = range(start, start + components)
        bound = sum(multipliers[k] * int(abs(left[:, k]).max()) * int(abs(right[:, k]).max()) for k in members)
        assert bound < 2**53
        # Sums of integers below 2^53 are exact in any order.
        scaled = right[:, start : start + components] * np.array([float(multipliers[k]) for k in members])
        group = np.zeros(shape)
        for k in range(components):
            group += np.outer(left[:, start + k], scaled[:, k])
        group *= math.ldexp(1.0, exponent)
        total = group if start == 0 else total + group
        start += components
    return total


def remainder(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    rows, columns = shape
    height = max(1, 2**20 // columns) if columns else 1
    found = []
    for number, part in enumerate(parts):
        width = part[0]
        assert width in (2, 4)
        codes = np.frombuffer(part[1:], f"<i{width}").astype(np.int64)
        assert len(codes) == columns * (min(rows, (number + 1) * height) - number * height)
        assert not len(codes) or int(abs(codes).max()) < 2**29
        found.append(codes)
    assert sum(map(len, found)) == rows * columns
    return np.concatenate([np.zeros(0), *found]).reshape(shape) * dyadic(parameters["step"])


def factors(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    m, n = shape[::-1] if parameters["transpose"] else shape
    up, down = (
        doubles(from_planes(part, BITS[parameters[side]] // 8), parameters[side]).reshape(size)
        for part, side, size in zip(
            parts, ("up", "down"), ((m, parameters["rank"]), (parameters["rank"], n)), strict=True
        )
    )
    total = np.zeros((m, n))
    for component in range(parameters["rank"]):
        total = total + np.outer(up[:, component], down[component])
    total = total * float(parameters["scaling"])
    return total.T if parameters["transpose"] else total


def ere(parameters: dict, parts: list[bytes], shape: tuple[int, int], base: np.ndarray) -> np.ndarray:
    rank, bits, content = parameters["rank"], parameters["bits"], parts[0]
    if not rank:
        return np.zeros(shape)
    top = 2 ** (bits - 1) - 1
    scales = np.frombuffer(content[: 4 * rank], "<f2").astype(np.float64).reshape(2, rank)
    (exponent,) = struct.unpack("<h", content[4 * rank : 4 * rank + 2])
    singular = np.ldexp(np.frombuffer(content[4 * rank + 2 : 6 * rank + 2], "<f2").astype(np.float64), exponent)
    position, sides = 6 * rank + 2, []
    for length, scale in zip(shape, scales, strict=True):
        size = (length * rank * bits + 7) // 8
        stream = np.unpackbits(np.frombuffer(content[position : position + size], np.uint8))[: length * rank * bits]
        position += size
        codes = stream.reshape(rank, length, bits) @ (1 << np.arange(bits)[::-1]) - top
        u, _, v = np.linalg.svd(codes.T * (scale / top), full_matrices=False)
        sides.append(u @ v)
    assert position == len(content)
    return (sides[0] * singular) @ sides[1].T


SECTIONS = {
    "gamma": gamma,
    "vector": vector,
    "dense": dense,
    "lowrank": lowrank,
    "lowrank2": lowrank2,
    "remainder": remainder,
    "factors": factors,
    "ere": ere,
}


def add_difference(predicted: bytes, coded: bytes, dtype: str) -> bytes:
    """§8.8, in Python's integers: undo the zigzag, add in the order of values, wrap around."""
    width = BITS.get(dtype, 8)
    half, whole = 1 << (width - 1), 1 << width

    def ordered(bits: int) -> int:
        return bits if bits < half else half - 1 - bits

    size, value = width // 8, bytearray()
    for start in range(0, len(predicted), size):
        code = int.from_bytes(coded[start : start + size], "little")
        difference = code // 2 if code % 2 == 0 else -(code + 1) // 2
        total = ordered(int.from_bytes(predicted[start : start + size], "little")) + difference
        total = (total + half) % whole - half
        value += (total if total >= 0 else half - 1 - total).to_bytes(size, "little")
    return bytes(value)


SIGNIFICANDS = {
    "F64": 52,
    "F32": 23,
    "F16": 10,
    "BF16": 7,
    "F8_E4M3": 3,
    "F8_E4M3FNUZ": 3,
    "F8_E5M2": 2,
    "F8_E5M2FNUZ": 2,
}


def add_classed(predicted: bytes, parts: list[bytes], dtype: str, columns: int) -> bytes:
    """§8.7, in Python's integers."""
    size = BITS.get(dtype, 8) // 8
    assert len(parts) == -(-len(predicted) // (size << 18))
    value = b""
    for number, part in enumerate(parts):
        guess = predicted[number * size << 18 : (number + 1) * size << 18]
        if len(part) == len(guess):
            value += part
        else:
            assert 0 < len(part) < len(guess)
            value += classed_part(guess, part, dtype, number << 18, columns)
    return value


def classed_part(predicted: bytes, part: bytes, dtype: str, start: int, columns: int) -> bytes:
    width, significand = BITS.get(dtype, 8), SIGNIFICANDS[dtype]
    size, half, whole = width // 8, 1 << (width - 1), 1 << width
    shift, drift_bits, flagged, ranges = part[:4]
    position = 4

    def numbers(count: int, length: int, *, signed: bool = False) -> list[int]:
        nonlocal position
        begin, position = position, position + count * length
        assert position <= len(part)
        return [
            int.from_bytes(part[at : at + length], "little", signed=signed) for at in range(begin, position, length)
        ]

    word = max(2, size)
    drift = numbers(1 << drift_bits, word, signed=True) if drift_bits else [0]
    elements = range(start, start + len(predicted) // size)
    first_row = start // columns
    rows = elements[-1] // columns - first_row + 1
    flags = int.from_bytes(bytes(numbers(-(-rows // 8), 1)), "little") if flagged else 0
    assert flags >> rows == 0
    firsts = [0, *numbers(ranges - 1, 2)]
    assert firsts[1:] == sorted(set(firsts[1:]))
    lengths = numbers(ranges + flagged, 4)
    members: list[list[tuple[int, int, int, int]]] = [[] for _ in lengths]
    left = significand - shift
    for place, element in enumerate(elements):
        bits = int.from_bytes(predicted[place * size : (place + 1) * size], "little")
        sign, magnitude = bits & half, bits & (half - 1)
        if shift:
            magnitude = (magnitude >> shift) + (magnitude >> (shift - 1) & 1)
        exponent, leading = magnitude >> left, (magnitude >> (left - drift_bits)) % (1 << drift_bits)
        inside = max(each for each in range(ranges) if each == 0 or firsts[each] <= exponent)
        chosen = ranges if flags >> (element // columns - first_row) & 1 else inside
        members[chosen].append((place, sign, magnitude, drift[leading]))
    value = bytearray(len(predicted))
    for held, length in zip(members, lengths, strict=True):
        chunk = part[position : position + length]
        position += length
        differences = unchunk(chunk, len(held), word)
        for (place, sign, magnitude, moved), difference in zip(held, differences, strict=True):
            total = (magnitude + moved + difference + half) % whole - half
            mapped = total if total >= 0 else total ^ ((half - 1) >> shift)
            bits = (mapped << shift) % whole ^ sign
            value[place * size : (place + 1) * size] = bits.to_bytes(size, "little")
    assert position == len(part)
    return bytes(value)


def unchunk(chunk: bytes, count: int, word: int) -> list[int]:
    """§3.3: numbers in pcodec's wrapped format."""
    if not count:
        assert not chunk
        return []
    assert (chunk[0], chunk[2]) == (4, 0)
    found = np.empty(count, dtype=f"i{word}")
    file, length = wrapped.FileDecompressor.new(chunk)
    chunk = chunk[length:]
    numbers, length = file.chunk_decompressor(chunk, f"i{8 * word}")
    progress, used = numbers.read_page_into(chunk[length:], count, found)
    assert progress.finished
    assert length + used == len(chunk)
    return found.tolist()
