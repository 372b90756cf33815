import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evclip_ray.data.video.decode import Fitting, decode_frames, decode_view, decoder_name
from evclip_ray.data.video.view import ViewConfig


@pytest.fixture(autouse=True)
def fresh():
    """Clear the cached decoder name before and after each test."""
    decoder_name.cache_clear()
    yield
    decoder_name.cache_clear()


@pytest.fixture
def fake(monkeypatch, decoded):
    """Install a fake torchcodec that decodes with PyAV and records its calls."""
    state = SimpleNamespace(calls=[], fails=False)

    class VideoDecoder:
        def __init__(self, path, *, stream_index, dimension_order, num_ffmpeg_threads):
            assert (stream_index, dimension_order, num_ffmpeg_threads) == (0, "NHWC", 1)
            self.path = path

        def get_frames_at(self, indices):
            state.calls.append(indices)
            if state.fails:
                raise RuntimeError("Could not push packet")
            whole = decoded(self.path, lambda frame: frame.to_ndarray(format="rgb24"))
            return SimpleNamespace(data=torch.from_numpy(whole[indices]))

    decoders = SimpleNamespace(VideoDecoder=VideoDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=decoders))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.0")
    return state


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
def test_missing_torchcodec_is_refused_with_the_fix(tmp_path, monkeypatch, error):
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(f"raise {error}('no libavutil\\nlong story')")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"does not import \(no libavutil\): pip install .*view.decoder=pyav"
    ):
        decoder_name("torchcodec")


def test_pyav_is_the_default_decoder(tmp_path, write_video, fake):
    path = write_video(tmp_path / "v.mp4")
    decode_frames(path, [3], height=48, width=64)
    assert fake.calls == []
    decode_view(path, view=ViewConfig(num_frames=2, height=48, width=64, decoder="torchcodec"))
    assert fake.calls == [[10, 30]]


def test_torchcodec_changes_the_cache_key(fake):
    assert decoder_name("torchcodec").startswith("torchcodec 0.17.0 / pyav ")
    assert decoder_name().startswith("pyav ")
    assert ViewConfig(decoder="torchcodec").model_dump() != ViewConfig().model_dump()


def test_torchcodec_returns_the_same_frames_as_pyav(tmp_path, write_video, fake, decoded):
    path = write_video(tmp_path / "v.mp4")
    whole = decoded(path, Fitting(ViewConfig(height=48, width=64)))
    frames = decode_frames(path, [30, 2, 30], height=48, width=64, decoder="torchcodec")
    assert fake.calls == [[2, 30]]
    assert np.abs(frames.astype(int) - whole[[30, 2, 30]]).mean() < 2


def test_torchcodec_numbers_frames_of_the_whole_file(tmp_path, write_video, fake):
    path = write_video(tmp_path / "v.mp4", options={"g": "5", "sc_threshold": "0"})
    view = ViewConfig(num_frames=2, height=48, width=64, decoder="torchcodec")
    decode_view(path, view=view, start_seconds=1.0, end_seconds=1.1)
    assert fake.calls == [[30, 32]]


def test_files_without_exact_packets_use_pyav(tmp_path, write_video, fake):
    path = write_video(tmp_path / "v.avi", codec="mpeg4")
    assert decode_frames(path, [3], height=48, width=64, decoder="torchcodec").shape == (1, 48, 64, 3)
    assert fake.calls == []


def test_pyav_decodes_after_a_torchcodec_failure(tmp_path, write_video, fake, decoded):
    path = write_video(tmp_path / "v.mp4", num_frames=5)
    fake.fails = True
    whole = decoded(path, Fitting(ViewConfig(height=48, width=64)))
    frames = decode_frames(path, [4, 1], height=48, width=64, decoder="torchcodec")
    assert (frames == whole[[4, 1]]).all()
    assert fake.calls == [[1, 4]]
