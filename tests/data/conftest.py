import av
import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.data.manifest.manifest import Manifest


@pytest.fixture(scope="module", autouse=True)
def _decode_on_ray(decode_on_ray):
    """Use Ray for the decoding in all tests of this folder."""


@pytest.fixture(scope="session")
def write_video():
    """Return a function that writes a video and returns its path.

    Frame k is brighter than frame k - 1 and contains a moving line.
    """

    def write(
        path, *, num_frames=40, width=64, height=48, codec="libx264", options=None, muxing=None, times=None
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=muxing or {}) as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = options or {}
            for number in range(num_frames):
                image = np.full((height, width, 3), 4 * number % 250, dtype=np.uint8)
                image[number % height] = 255
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times is not None:
                    frame.pts = times[number]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def make_manifest(tmp_path):
    """Return a function that builds a manifest from columns; its files need not exist."""

    def make(root=None, **columns):
        return Manifest(pa.table(columns), root or tmp_path, "manifest.csv")

    return make


@pytest.fixture(scope="session")
def decoded():
    """Return a function that decodes every frame of a file with a plain PyAV loop."""

    def decode(path, convert):
        with av.open(str(path)) as container:
            return np.stack([convert(frame) for frame in container.decode(container.streams.video[0])])

    return decode
