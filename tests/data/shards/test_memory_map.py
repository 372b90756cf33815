import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.data.shards.memory_map import MemoryMap, memory_bytes


@pytest.fixture
def path(tmp_path):
    """Return a file of sixteen rows of one mebibyte."""
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2**21, dtype=np.int64)), 2**17)
    table = pa.record_batch([rows], names=["values"])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_batch(table)
    return tmp_path / "a.arrow"


def resident_bytes():
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile")) * 1024


def test_released_rows_leave_memory_and_read_the_same(path):
    file = MemoryMap(path)
    values = file.reader.get_batch(0).column(0).flatten().to_numpy().reshape(16, -1)
    for row in values:
        file.prefetch(row.ctypes.data, row.nbytes)
    before = resident_bytes()
    assert int(values.sum()) == 2**20 * (2**21 - 1)
    full = resident_bytes()
    assert full - before > 12 * 2**20
    for row in values:
        file.release(row.ctypes.data, row.nbytes)
    assert resident_bytes() - before < 2 * 2**20
    assert int(values[7, 5]) == 7 * 2**17 + 5


def test_pages_outlive_the_map_and_the_file(path):
    column = MemoryMap(path).reader.get_batch(0).column(0)
    path.unlink()
    assert column.flatten()[3].as_py() == 3


@pytest.mark.parametrize("content", [b"", b"no Arrow file"])
def test_non_arrow_file_is_a_value_error(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError):
        MemoryMap(tmp_path / "a")


def test_memory_bytes_is_plausible():
    assert 2**26 < memory_bytes() < 2**60
