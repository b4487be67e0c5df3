import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.reading.buffer_pool import ALIGNMENT, Buffers


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=30))
def test_what_is_held_keeps_its_values_whatever_comes_and_goes_beside_it(asked):
    buffers, held = Buffers(40 * 8), []
    for number, (rows, keep, only_a_view) in enumerate(asked):
        array = buffers.empty((rows, 4), "<f2")
        assert array.shape == (rows, 4)
        assert all(array.flags[name] for name in ("C_CONTIGUOUS", "WRITEABLE"))
        assert not rows or array.ctypes.data % ALIGNMENT == 0
        array[:] = number
        if keep:
            held.append((array[1::2].T if only_a_view else array, number))
        elif held:
            held.pop(0)
        del array
        assert all((view == value).all() for view, value in held)


def test_memory_is_used_again_once_the_last_view_of_it_is_gone():
    buffers = Buffers(1000)
    first = buffers.empty((100,), np.float32)
    place, view = first.ctypes.data, first[10:20]
    del first
    assert buffers.empty((100,), np.float32).ctypes.data != place
    del view
    assert place in {buffers.empty((7,), "<u2").ctypes.data for _ in range(2)}


def test_more_than_a_buffer_holds_is_refused():
    with pytest.raises(ValueError, match="of 8 bytes cannot hold 10"):
        Buffers(8).empty((5,), "<f2")
