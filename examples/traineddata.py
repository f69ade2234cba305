"""Read the weights of a Tesseract LSTM model (``.traineddata``) and write them as safetensors.

    python examples/traineddata.py eng.traineddata eng.safetensors

Source: Tesseract 5, ``tessdatamanager.cpp`` (table of components), ``network.cpp``, ``plumbing.cpp``, ``lstm.cpp`` and
``weightmatrix.cpp`` (the network). Numbers are little-endian. Only networks kept in float64 are read.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LSTM_COMPONENT = 17
GATES = ("input", "input_gate", "forget_gate_1", "output_gate", "forget_gate_2d")
TYPES_WITH_PARTS = (
    "Series",
    "Parallel",
    "Replicated",
    "ParBidiLSTM",
    "DepParUDLSTM",
    "Par2dLSTM",
    "RTLReversed",
    "TTBReversed",
    "XYTranspose",
)
TYPES_WITH_WEIGHTS = ("Logistic", "LinLogistic", "LinTanh", "Tanh", "Relu", "Linear", "Softmax", "SoftmaxNoCTC")
LAYER_LEARNING_RATES = 64
INTEGERS, ADAM, DOUBLES = 1, 4, 128


class Reader:
    """A cursor over bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Read numbers as :mod:`struct` describes them."""
        found = struct.unpack_from("<" + layout, self.content, self.position)
        self.position += struct.calcsize("<" + layout)
        return found

    def text(self) -> str:
        """Read a string with its length."""
        (length,) = self.numbers("I")
        self.position += length
        return self.content[self.position - length : self.position].decode()

    def matrix(self) -> np.ndarray:
        """Read a matrix of doubles: two sizes, one value for empty places, then the rows."""
        rows, columns = self.numbers("II")
        self.numbers("d")
        found = np.frombuffer(self.content, "<f8", rows * columns, self.position).reshape(rows, columns)
        self.position += found.nbytes
        return found


def read_traineddata(content: bytes) -> dict[str, np.ndarray]:
    """Return the weight matrices by their place in the network; the last column of each is the bias.

    Parameters
    ----------
    content : bytes
        Of the whole file.
    """
    (count,) = struct.unpack_from("<i", content)
    offsets = struct.unpack_from(f"<{count}q", content, 4)
    start = offsets[LSTM_COMPONENT]
    end = min((offset for offset in offsets if offset > start), default=len(content))
    return dict(read_network(Reader(content[start:end]), "network"))


def read_network(reader: Reader, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the matrices of one network and of its parts."""
    (code,) = reader.numbers("b")
    if code != 0:
        raise ValueError(f"network type {code} is of before Tesseract 4")
    kind = reader.text()
    is_training, _ = reader.numbers("bb")
    flags, inputs, outputs, _ = reader.numbers("iiii")
    reader.text()
    if kind in TYPES_WITH_PARTS:
        for part in range(*reader.numbers("I")):
            yield from read_network(reader, f"{name}.{part}")
        if flags & LAYER_LEARNING_RATES:
            reader.numbers("f" * reader.numbers("I")[0])
    elif kind == "Input":
        reader.numbers("iiiii")
    elif kind in ("Convolve", "Maxpool", "Reconfig"):
        reader.numbers("ii")
    elif kind in TYPES_WITH_WEIGHTS:
        yield f"{name}.weight", read_weights(reader, is_training=is_training == 1)
    elif kind in ("LSTM", "SummLSTM"):
        (gate_inputs,) = reader.numbers("i")
        states = 0
        for gate in GATES:
            if gate != GATES[-1] or gate_inputs == inputs + 2 * states:
                weights = read_weights(reader, is_training=is_training == 1)
                states = len(weights)
                yield f"{name}.{gate}.weight", weights
    else:
        raise ValueError(f"network type '{kind}' with {outputs} outputs is not known here")


def read_weights(reader: Reader, *, is_training: bool) -> np.ndarray:
    """Read one weight matrix; what its training left beside it is passed over."""
    (mode,) = reader.numbers("B")
    if mode & INTEGERS or not mode & DOUBLES:
        raise ValueError("only networks of doubles are read")
    weights = reader.matrix()
    if is_training:
        reader.matrix()
        if mode & ADAM:
            reader.matrix()
    return weights


def main() -> None:
    """Convert the first argument to the second."""
    source, target = map(Path, sys.argv[1:3])
    save_file(read_traineddata(source.read_bytes()), target)


if __name__ == "__main__":
    main()
