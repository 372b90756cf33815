"""Overlays: size, times and orientation of the copy, its labels and its heat map."""

import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import picture, set_matrix, write_numbered

from evclip_ray.data.video.decode import probe
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy import drawing, overlay
from evclip_ray.deploy.drawing import Square, fitted, seen_square, strip
from evclip_ray.deploy.overlay import write_overlay
from evclip_ray.deploy.predictions import WindowPrediction
from evclip_ray.deploy.timeline import Segment
from evclip_ray.machine_faults import find_fault

VIEW = ViewConfig(num_frames=4)


def window(start, end, value=None):
    mask = None if value is None else np.full((32, 32), value, np.float32)
    return WindowPrediction(start, end, (), np.zeros(2, np.float32), mask=mask)


def draw(video, folder, *, segments=(), windows=(), view=VIEW):
    target = folder / "out.mp4"
    write_overlay(str(video), target, view=view, segments=segments, windows=windows)
    return target


def decoded(path):
    with av.open(str(path)) as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24").astype(int)) for frame in container.decode(video=0)
        ]


def colourfulness(pixels):
    return float(np.ptp(pixels, axis=-1).mean())


def test_copy_has_the_size_rate_and_times_of_the_video(tmp_path):
    video = write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(10), size=(120, 90), pixel_aspect=2)
    copy = draw(video, tmp_path)
    one, other = probe(video), probe(copy)
    assert (other.width, other.height, other.pixel_aspect) == (120, 90, Fraction(2))
    assert (other.num_frames, other.fps) == (one.num_frames, pytest.approx(one.fps))
    assert other.duration_seconds == pytest.approx(one.duration_seconds, abs=1e-3)
    assert other.codec == "h264"
    # Without windows and segments the pixels are those of the video, up to the compression.
    for (time, pixels), (seen, shown) in zip(decoded(video), decoded(copy), strict=True):
        assert seen == pytest.approx(time)
        assert np.abs(pixels - shown).mean() < 6


def test_copy_keeps_variable_frame_times(tmp_path):
    times = [0, 1, 2, 10, 11, 30]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    copy = draw(tmp_path / "a.mp4", tmp_path)
    assert [time for time, _ in decoded(copy)] == pytest.approx([time / 25 for time in times], abs=1e-4)


def test_odd_size_loses_one_pixel_and_a_phone_video_is_upright(tmp_path):
    odd = write_numbered(tmp_path / "odd.avi", "mjpeg", numbers=range(3), size=(75, 51), pixels="yuvj444p")
    assert (probe(draw(odd, tmp_path)).width, probe(draw(odd, tmp_path)).height) == (74, 50)
    turned = set_matrix(
        write_numbered(tmp_path / "turned.mp4", "libx264", numbers=range(3), size=(120, 90)), 0, 1, -1, 0
    )
    info = probe(draw(turned, tmp_path))
    assert (info.width, info.height, info.rotation) == (90, 120, 0)


def test_tiny_video_has_an_overlay(tmp_path):
    video = write_numbered(tmp_path / "a.avi", "ffv1", numbers=range(2), size=(9, 7))
    copy = draw(video, tmp_path, segments=[Segment(0, 1, "kick", 0.5)], windows=[window(0, 1, 0.5)])
    assert (probe(copy).width, probe(copy).height) == (8, 6)


def test_without_an_encoder_for_h264_mpeg4_is_written(tmp_path, monkeypatch, videos):
    real = av.container.OutputContainer.add_stream

    class Container:
        def __init__(self, container):
            self._container = container

        def add_stream(self, codec, **options):
            if codec == "libx264":
                raise ValueError("unknown encoder")
            return real(self._container, codec, **options)

    opened = overlay._open_stream
    monkeypatch.setattr(
        overlay, "_open_stream", lambda container, *others: opened(Container(container), *others)
    )
    assert probe(draw(videos[0], tmp_path)).codec == "mpeg4"


def test_heat_map_covers_the_square_in_the_time_of_its_window(tmp_path):
    video = write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(15), size=(160, 120))
    square = seen_square(VIEW, 120, 160)
    copy = draw(video, tmp_path, windows=[window(0, 0.2, 0.0), window(0.2, 0.4, 1.0)])
    inside = (
        slice(square.top + 2, square.top + square.height - 2),
        slice(square.left + 2, square.left + square.width - 2),
    )
    frames = decoded(copy)
    blue, yellow, none = frames[3][1][inside], frames[7][1][inside], frames[12][1][inside]
    assert blue[..., 2].mean() > blue[..., 1].mean() + 20
    assert yellow[..., 0].mean() > yellow[..., 2].mean() + 60
    assert np.abs(none - decoded(video)[12][1][inside]).mean() < 6
    outside = np.abs(frames[3][1] - decoded(video)[3][1])[:, : square.left - 2]
    assert outside.mean() < 6


def test_windows_are_taken_when_their_time_has_come(tmp_path):
    video = write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(50), size=(64, 48))
    taken = []

    def windows(value):
        for start in range(100):
            taken.append(start)
            yield window(start, start + 1, value)

    draw(video, tmp_path, windows=windows(0.5))
    # A video of 2 seconds, and one window ahead.
    assert taken == [0, 1, 2]
    taken.clear()
    draw(video, tmp_path, windows=windows(None))
    assert taken == [0, 1]


def test_label_is_shown_in_its_segment(tmp_path):
    video = write_numbered(tmp_path / "a.mp4", "libx264", numbers=[0] * 10, size=(320, 240))
    segments = [Segment(0, 0.2, "Händeschütteln", 0.93), Segment(0.2, 1, None, 0.2)]
    frames = decoded(draw(video, tmp_path, segments=segments))
    plain, first, second = decoded(video)[0][1], frames[3][1], frames[8][1]
    changed = np.abs(first - second).mean(axis=-1) > 40
    assert 100 < changed.sum() < 8000
    assert not changed[:210].any()
    assert np.abs(first[:210] - plain[:210]).mean() < 6


def test_full_disk_leaves_no_file(tmp_path):
    video = write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(10), size=(320, 240))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Exception, match="File too large") as caught:
            draw(video, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert find_fault(caught.value).reason == "the limit of the file size is reached"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("view", "size", "aspect", "expected"),
    [
        (VIEW, (480, 640), 1, (30, 110, 420, 420)),
        (VIEW, (640, 480), 1, (110, 30, 420, 420)),
        # Longer than 3:1: the middle is stored.
        (VIEW, (100, 1000), 1, (6, 456, 88, 88)),
        # 256 x 340 stretched to: the square is a rectangle of a 16:9 picture.
        (ViewConfig(height=256, width=340, fit="stretch"), (1080, 1920), 1, (68, 328, 945, 1265)),
        (ViewConfig(height=256, width=256), (480, 640), 1, (30, 110, 420, 420)),
        # PAL: 576 lines are shown as 1024 x 576.
        (ViewConfig(pixels="display"), (576, 720), Fraction(64, 45), (36, 183, 504, 354)),
        (ViewConfig(), (576, 720), Fraction(64, 45), (36, 108, 504, 504)),
    ],
)
def test_square_is_the_centre_crop_of_the_evaluation(view, size, aspect, expected):
    assert seen_square(view, *size, aspect) == pytest.approx(Square(*expected), abs=1)


def test_square_shows_the_pixels_that_the_networks_get():
    """The crop of the stored frame is the square of the picture, also where the stored picture is cut."""
    from evclip_ray.data.transforms import crop_box
    from evclip_ray.data.video.decode import Fitting

    height, width = 90, 400
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    view = ViewConfig(num_frames=4, short_side=64)
    stored = Fitting(view)(av.VideoFrame.from_ndarray(np.ascontiguousarray(ramp), format="rgb24"))
    _, left, side = crop_box(*stored.shape[:2])
    square = seen_square(view, height, width)
    seen = stored[:, left : left + side].mean()
    assert ramp[:, square.left : square.left + square.width].mean() == pytest.approx(seen, abs=2)


def test_long_label_shrinks_and_is_cut_before_its_end():
    line, font = fitted("waving the right leg", "  93 %", size=20, width=1000)
    assert (line, font.size) == ("waving the right leg  93 %", 20)
    smaller, font = fitted("waving the right leg", "  93 %", size=20, width=220)
    assert smaller == line
    assert 13 <= font.size < 20
    for text in ("w" * 10_000, "two words\nand\x1b[2J " * 20):
        cut, font = fitted(text, "  93 %", size=20, width=150)
        assert cut.endswith("…  93 %")
        assert font.getlength(cut) <= 150
        assert "\n" not in cut
    assert strip("", " 1 %", width=30, size=10).shape == (16, 30, 3)


def test_letters_without_a_font_are_reported_once(caplog):
    drawing._warn_once.cache_clear()
    drawing._font_name.cache_clear()
    # Private letters, which no font of a system has.
    strip("\U000f0000 \U000f0001", "", width=100, size=12)
    strip("\U000f0000\U000f0002", "", width=100, size=12)
    assert sum("no font of this machine" in record.message for record in caplog.records) == 1
