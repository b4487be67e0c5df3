import numpy as np
import pytest

from storage.heads.checkpoints import CHECKPOINT, read_checkpoint, remove_checkpoint, write_checkpoint
from storage.layout import Store

NAME = "a" * 32


@pytest.fixture
def where(tmp_path) -> Store:
    return Store(tmp_path, "0" * 32)


ARRAYS = {
    "model/0": np.random.default_rng(0).normal(0, 1, (50, 70)).astype(np.float32),
    "optimizer/0": np.asarray(np.int64(7)),
    "best/0": np.zeros((0, 3), np.float32),
}


def test_a_checkpoint_is_read_as_it_was_written_and_replaced_whole(where):
    assert read_checkpoint(where, NAME) is None
    write_checkpoint(where, NAME, iter({"model/0": np.zeros(3)}.items()), {"epoch": 1})
    write_checkpoint(where, NAME, iter(ARRAYS.items()), {"epoch": 2, "figures": {"loss": 0.1}})
    arrays, record = read_checkpoint(where, NAME)
    assert record == {"epoch": 2, "figures": {"loss": 0.1}}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(arrays[name], array)
    assert [path.name for path in where.head(NAME).iterdir()] == [CHECKPOINT]
    remove_checkpoint(where, NAME)
    assert read_checkpoint(where, NAME) is None


def test_numpy_alone_can_read_a_checkpoint(where):
    write_checkpoint(where, NAME, iter(ARRAYS.items()), {})
    with np.load(where.head(NAME) / CHECKPOINT, allow_pickle=False) as archive:
        assert np.array_equal(archive["model/0"], ARRAYS["model/0"])


@pytest.mark.parametrize("part", range(20))
def test_a_checkpoint_with_a_bit_flipped_or_its_tail_cut_is_none(part, where):
    write_checkpoint(where, NAME, iter(ARRAYS.items()), {"epoch": 2, "figures": {"loss": 0.1}})
    path = where.head(NAME) / CHECKPOINT
    data = bytearray(path.read_bytes())
    at = len(data) * part // 20
    path.write_bytes(data[:at])
    assert read_checkpoint(where, NAME) is None
    data[at] ^= 16
    path.write_bytes(data)
    found = read_checkpoint(where, NAME)
    # Some bytes of an archive say nothing of its content, such as the time of a member.
    assert found is None or (
        found[1] == {"epoch": 2, "figures": {"loss": 0.1}}
        and all(np.array_equal(found[0][name], array) for name, array in ARRAYS.items())
    )


def test_a_death_while_writing_leaves_the_checkpoint_before(where):
    write_checkpoint(where, NAME, iter(ARRAYS.items()), {"epoch": 1})

    def dying():
        yield from ARRAYS.items()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(where, NAME, dying(), {"epoch": 2})
    assert read_checkpoint(where, NAME)[1] == {"epoch": 1}
    assert [path.name for path in where.head(NAME).iterdir()] == [CHECKPOINT]
