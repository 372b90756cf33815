"""Display matrices and pixels that are not square: pictures are as FFmpeg and players show them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import set_matrix, write_numbered

from evclip_ray.data.video.decode import decode_frames, decode_view, probe
from evclip_ray.data.video.view import ViewConfig

# The filters that FFmpeg's autorotation inserts for each matrix (fftools/ffmpeg_filter.c).
FILTERS = {
    (1, 0, 0, 1): [],
    (0, 1, -1, 0): [("transpose", "clock")],
    (-1, 0, 0, -1): [("hflip", ""), ("vflip", "")],
    (0, -1, 1, 0): [("transpose", "cclock")],
    (-1, 0, 0, 1): [("hflip", "")],
    (1, 0, 0, -1): [("vflip", "")],
    (0, 1, 1, 0): [("transpose", "cclock_flip")],
    (0, -1, -1, 0): [("transpose", "clock_flip")],
}


def filtered(path, filters):
    """Return the first frame as FFmpeg's filters turn it."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).reformat(format="rgb24")
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    ]
    nodes += [graph.add(name, argument) for name, argument in filters]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    return graph.pull().to_ndarray(format="rgb24")


@pytest.mark.parametrize("matrix", FILTERS)
def test_display_matrix_is_applied_as_ffmpeg_does(tmp_path, matrix):
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=[0b1001101] * 3)
    expected = filtered(path, FILTERS[matrix])
    set_matrix(path, *matrix)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.mirrored == (np.linalg.det(np.reshape(matrix, (2, 2))) < 0)
    frame = decode_frames(path, [0], height=info.height, width=info.width)[0]
    # The picture has no symmetry, so any other orientation differs much more.
    assert np.abs(frame.astype(int) - expected).mean() < 3


def circle(path, *, matrix=None):
    """Write a circle of a PAL video: 720 x 576 pixels of 64:45, at an eighth of the size."""
    rows, columns = np.mgrid[0:72, 0:90]
    inside = ((columns - 45) * 64 / 45) ** 2 + (rows - 36) ** 2 < 24**2
    image = np.repeat(np.where(inside, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 90, 72, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for _ in range(4):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    return path if matrix is None else set_matrix(path, *matrix)


def extent(frame):
    inside = frame[:, :, 0] > 128
    return inside.any(1).sum(), inside.any(0).sum()


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, 1)])
@pytest.mark.parametrize("size", [{"short_side": 144}, {"height": 144, "width": 144}])
def test_pixels_that_are_not_square_get_their_shape(tmp_path, matrix, size):
    path = circle(tmp_path / "v.mp4", matrix=matrix)
    info = probe(path)
    sideways = matrix[0] == 0
    assert info.pixel_aspect == (Fraction(45, 64) if sideways else Fraction(64, 45))
    height, width = extent(decode_view(path, view=ViewConfig(num_frames=1, pixels="display", **size))[0])
    assert abs(height - width) <= 2
    height, width = extent(decode_view(path, view=ViewConfig(num_frames=1, **size))[0])
    assert (height / width if not sideways else width / height) == pytest.approx(64 / 45, abs=0.05)


def test_display_aspect_gives_the_size_that_players_show(tmp_path):
    path = circle(tmp_path / "v.mp4")
    view = decode_view(path, view=ViewConfig(num_frames=1, short_side=72, pixels="display"))
    assert view.shape == (1, 72, 128, 3)


def test_stored_pixels_leave_keys_of_caches_unchanged():
    assert "pixels" not in ViewConfig().model_dump()
    assert ViewConfig(pixels="display").model_dump()["pixels"] == "display"
    assert ViewConfig.model_validate(ViewConfig(pixels="display").model_dump()).pixels == "display"
