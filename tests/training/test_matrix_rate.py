import pytest
import torch

from evclip_ray.locking import holding
from evclip_ray.training import matrix_rate as module
from evclip_ray.training.matrix_rate import FOLDER, MatrixRate, flop_rate, matrix_rate, measure_matrix_rate

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Return the formats that were measured, in order. The rate grows by one with each of them."""
    formats = []

    def measure(device, dtype):
        formats.append(dtype)
        return float(len(formats))

    monkeypatch.setattr(module, "measure_matrix_rate", measure)
    return formats


def rate_of(cache, dtype=torch.float32):
    rate = matrix_rate(CPU, dtype, cache)
    return rate and rate.flop_per_second


def test_rate_is_measured_once_per_format_and_threads(measured, tmp_path):
    assert [rate_of(tmp_path), rate_of(tmp_path), rate_of(tmp_path, torch.bfloat16)] == [1, 1, 2]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert rate_of(tmp_path) == 3
    finally:
        torch.set_num_threads(before)
    assert len(list((tmp_path / FOLDER).glob("*.json"))) == 3


def test_damaged_file_is_measured_again(measured, tmp_path):
    rate_of(tmp_path)
    (file,) = (tmp_path / FOLDER).glob("*.json")
    file.write_text("{")
    assert [rate_of(tmp_path), rate_of(tmp_path)] == [2, 2]


def test_rate_without_a_writable_cache_is_measured_and_not_stored(measured, tmp_path):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    assert [rate_of(tmp_path), rate_of(None)] == [1, 2]


def test_rate_is_missing_while_another_process_measures(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_WAIT_SECONDS", 0)
    rate_of(tmp_path)
    (file,) = (tmp_path / FOLDER).glob("*.json")
    file.unlink()
    with holding(file.with_name(f".{file.name}.lock"), ""):
        assert rate_of(tmp_path) is None
    assert rate_of(tmp_path) == 2


def test_measured_rate_is_that_of_the_fastest_product(monkeypatch):
    seconds = iter([2.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(module, "_SIZES", {"cpu": (8,)})
    monkeypatch.setattr(module, "_product_seconds", lambda *_: next(seconds))
    assert measure_matrix_rate(CPU, torch.float32, seconds=100) == 2 * 8**3


def test_slow_products_end_the_measurement(monkeypatch):
    monkeypatch.setattr(module, "_product_seconds", lambda *_: 10.0)
    assert measure_matrix_rate(CPU, torch.float32, seconds=1) == 2 * 256**3 / 10


@pytest.mark.parametrize("largest", [8, 16])
def test_full_gpu_has_the_rate_of_what_fits_or_an_error(monkeypatch, largest):
    def seconds(left, *_):
        if len(left) >= largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1.0

    monkeypatch.setattr(module, "_SIZES", {"cpu": (8, 16)})
    monkeypatch.setattr(module, "_product_seconds", seconds)
    if largest == 16:
        assert measure_matrix_rate(CPU, torch.float32, seconds=100) == 2 * 8**3
    else:
        # A rate of 0 would be stored, and shares are divided by it.
        with pytest.raises(torch.OutOfMemoryError):
            measure_matrix_rate(CPU, torch.float32, seconds=100)


def test_rate_as_text():
    assert flop_rate(7.7e14) == "770 TFLOP/s"
    assert str(MatrixRate(9.53e10, "AMD EPYC (2 CPUs)", "float32", 1)) == (
        "95.3 GFLOP/s in float32 on AMD EPYC (2 CPUs) with 1 thread"
    )
