"""Packed codes, held against the format's own words: one big number a column."""

from __future__ import annotations

import numpy as np
import pytest
from former_codes import pack, width_of
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual import code_packing

WIDTHS = pytest.mark.parametrize("width", code_packing.WIDTHS)


def column(codes: list[int], width: int) -> bytes:
    """Pack one column by the definition."""
    offset = [code + (1 << (width - 1)) for code in codes] if width else []
    if width > 8:
        return bytes((code >> shift) & 0xFF for shift in range(0, width, 8) for code in offset)
    total = sum(code << (place * width) for place, code in enumerate(offset))
    return total.to_bytes((len(codes) * width + 7) // 8, "little")


@WIDTHS
@pytest.mark.parametrize("at_once", [3, 1 << 20])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_columns_are_packed_by_the_definition(width, at_once, data):
    columns, length = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 19))
    largest = (1 << (width - 1)) - 1 if width else 0
    codes = data.draw(
        st.lists(
            st.lists(st.integers(-largest, largest), min_size=length, max_size=length),
            min_size=columns,
            max_size=columns,
        )
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(code_packing, "_CODES_AT_ONCE", at_once)
        packed = pack(np.array(codes, dtype=np.int64).reshape(columns, length), width)
        found = code_packing.unpack(packed, columns, length, width)
    assert packed == b"".join(column(each, width) for each in codes)
    assert found.tolist() == codes
    assert found.dtype == (code_packing.integer_type(width) if columns * length else np.int8)


@WIDTHS
def test_the_width_is_the_smallest_that_holds_the_codes(width):
    largest = (1 << (width - 1)) - 1 if width else 0
    assert width_of([largest]).tolist() == [width]
    if width < 32:
        assert width_of([largest + 1]).tolist() == [code_packing.WIDTHS[code_packing.WIDTHS.index(width) + 1]]


@pytest.mark.parametrize(("columns", "length", "width"), [(2, 3, 4), (1, 3, 3), (2, 5, 8), (0, 5, 16), (4, 3, 0)])
def test_another_number_of_bytes_is_refused(columns, length, width):
    with pytest.raises(CorruptionError):
        code_packing.unpack(bytes(5), columns, length, width)
