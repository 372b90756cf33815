"""Views of windows: variable rates, odd files, decoding ahead, and long videos in bounded memory."""

import subprocess
import sys
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import number_of, picture, write_numbered

from evclip_ray.data.video.decode import Part, VideoError, decode_view
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.reading import View, group_frames, read_ahead, read_views
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.windows import WindowLength

VIEW = ViewConfig(num_frames=2, height=48, width=64)


@pytest.fixture(scope="module")
def recognizer(checkpoint):
    return Recognizer.load(checkpoint, device="cpu")


def numbers(path, *, window, stride=None, view=VIEW, **part):
    views = read_views(path, view, part=Part(**part), windows=WindowLength.checked(window, stride))
    return [[number_of(frame) for frame in each.frames] for each in views]


def write_timed(path, seconds, *, size=(64, 48), codec="libx264"):
    """Write numbered frames that are shown at `seconds`."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=1000)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_shown in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_shown), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg4", "avi")])
def test_windows_take_the_frames_of_their_time(tmp_path, codec, suffix):
    path = write_numbered(tmp_path / f"v.{suffix}", codec, numbers=range(100), options={"g": "12"})
    assert numbers(path, window=2) == [[12, 37], [62, 87]]
    assert numbers(path, window=2, stride=1) == [[12, 37], [37, 62], [62, 87]]
    assert numbers(path, window=1, start_seconds=1, end_seconds=2.6) == [[31, 43], [46, 58]]


def test_window_equals_the_view_of_that_part(tmp_path):
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(100))
    for each in read_views(path, VIEW, windows=WindowLength.checked(1, 0.5)):
        part = {"start_seconds": each.start_seconds, "end_seconds": each.end_seconds}
        assert np.array_equal(each.frames, decode_view(path, view=VIEW, **part))


def test_variable_rate_is_read_by_time(tmp_path):
    path = write_timed(tmp_path / "v.mp4", [0, 0.1, 0.2, 0.3, 3.5, 3.6, 4.9])
    # No frame starts between 0.3 and 3.5 s, so that frame 3 is shown.
    assert numbers(path, window=1) == [[1, 3], [3, 3], [3, 3], [4, 5], [6, 6]]


def test_low_rate_repeats_the_frame_that_is_shown(tmp_path):
    path = write_timed(tmp_path / "v.mp4", [0, 2, 4])
    assert numbers(path, window=1)[:5] == [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2]]


def test_video_of_one_frame_has_one_window(tmp_path):
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=[7])
    assert numbers(path, window=5) == [[7, 7]]


def test_folder_of_frames_needs_a_rate_for_windows(tmp_path):
    for number in range(20):
        av.VideoFrame.from_ndarray(picture(number), format="rgb24").to_image().save(
            tmp_path / f"img_{number:05d}.png"
        )
    assert numbers(tmp_path, window=1, fps=10) == [[2, 7], [12, 17]]
    with pytest.raises(VideoError, match="has no times; give its frames per second"):
        numbers(tmp_path, window=1)
    (view,) = read_views(tmp_path, VIEW)
    assert [number_of(frame) for frame in view.frames] == [5, 15]


def test_file_with_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    with pytest.raises(VideoError, match="has no video stream"):
        next(read_views(tmp_path / "v.mp4", VIEW))


def test_damage_in_the_middle_is_reported_after_good_windows(tmp_path):
    # One key frame, so that no seek skips the damage.
    options = {"g": "250", "sc_threshold": "0", "bf": "0"}
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(100), options=options)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][50]
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    views = read_views(path, VIEW, windows=WindowLength.checked(1, None))
    assert number_of(next(views).frames[0]) == 6
    assert number_of(next(views).frames[0]) == 31
    with pytest.raises(VideoError, match="damaged in the middle"):
        next(views)


def test_windows_that_exceed_the_memory_are_refused(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(100))
    monkeypatch.setattr("evclip_ray.deploy.reading.MAX_HELD_BYTES", 20 * 48 * 64 * 3)
    assert len(numbers(path, window=2, stride=0.4)) == 6
    with pytest.raises(VideoError, match=r"windows of 2 s every 0.04 s keep .* raise the stride"):
        numbers(path, window=2, stride=0.04)
    with pytest.raises(VideoError, match=r"a stride of 1e-07 s gives .* windows"):
        numbers(path, window=2, stride=1e-7)


def test_frames_of_past_windows_are_dropped():
    alive = []

    def frames():
        for index in range(1000):
            image = np.full((1, 1, 3), index % 256, np.uint8)
            alive.append(weakref.ref(image))
            yield index, image
            assert sum(each() is not None for each in alive) <= 5

    indices = np.arange(1000).reshape(250, 4)
    for number, view in enumerate(group_frames(frames(), indices)):
        assert view[:, 0, 0, 0].tolist() == [(4 * number + k) % 256 for k in range(4)]


def fake_views(count, started=None, delay=0.0):
    def read(video):
        for number in range(count):
            if started is not None:
                started.append((video, number))
            time.sleep(delay)
            yield View(number, number + 1, np.zeros((1, 1, 1, 3), np.uint8), count, count)

    return read


def test_reading_ahead_is_bounded():
    started = []
    videos = read_ahead(range(100), fake_views(50, started), workers=2, ahead=3, depth=2)
    video, views = next(videos)
    assert video == 0
    next(views)
    time.sleep(0.1)
    # Two threads, each with two waiting views and a third one in hand; one view was taken.
    assert len(started) <= 2 * 3 + 1
    videos.close()


def test_reading_keeps_the_order_of_the_videos():
    taken = [
        (video, view.start_seconds)
        for video, views in read_ahead(range(20), fake_views(3), workers=4, ahead=6, depth=1)
        for view in views
    ]
    assert taken == [(video, number) for video in range(20) for number in range(3)]


def test_threads_end_when_the_caller_stops():
    before = threading.active_count()
    videos = read_ahead(range(100), fake_views(1000), workers=3, ahead=5, depth=1)
    _, views = next(videos)
    next(views)
    videos.close()
    assert threading.active_count() == before


@pytest.mark.slow
def test_process_ends_with_an_iterator_left_open():
    program = """
import itertools
import numpy as np
from evclip_ray.deploy.reading import View, read_ahead
def read(video):
    for number in itertools.count():
        yield View(0, 1, np.zeros((1, 1, 1, 3), np.uint8), 1, 1)
videos = read_ahead(range(9), read, workers=2, ahead=3, depth=1)
next(next(videos)[1])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_error_of_the_caller_ends_the_threads(recognizer, videos, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(recognizer._model), "forward", fail)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(recognizer.predict_many([videos[0]] * 50, batch_size=2, workers=3))
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [MemoryError("none left"), KeyboardInterrupt()])
def test_errors_of_the_machine_reach_the_caller(error):
    def read(video):
        yield View(0, 1, np.zeros((1, 1, 1, 3), np.uint8), 1, 1)
        raise error

    videos = read_ahead([1, 2], read, workers=1, ahead=2, depth=1)
    _, views = next(videos)
    next(views)
    with pytest.raises(type(error)):
        next(views)
    videos.close()


@pytest.mark.slow
def test_two_hours_are_predicted_in_bounded_memory(make_checkpoint, tmp_path):
    from predict import write_long

    from evclip_ray.profiling.memory import peak_bytes

    short = write_long(tmp_path / "short.mp4", hours=0.05)
    path = write_long(tmp_path / "long.mp4", hours=2)
    recognizer = Recognizer.load(make_checkpoint("zero_shot"), device="cpu")
    counts = []

    def run(video):
        windows = recognizer.predict_windows(video, window_seconds=4, stride_seconds=2)
        counts.append(sum(1 for _ in windows))

    run(short)
    run(short)
    _, few = peak_bytes(lambda: run(short), recognizer.device)
    _, many = peak_bytes(lambda: run(path), recognizer.device)
    assert counts[-2:] == [89, 3599]
    # The index of 180,000 frames takes some bytes per frame; a stored frame alone would take 20 KB.
    assert many < few + 120 * 2**20


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_videos(checkpoint, videos):
    recognizer = Recognizer.load(checkpoint, device="cpu")
    resident = []
    results = recognizer.predict_many((videos[number % 3] for number in range(1000)), batch_size=8)
    for number, _ in enumerate(results, 1):
        if number % 100 == 0:
            status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            resident += [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
    assert max(resident[2:]) - min(resident[2:]) < 20 * 1024, resident


@pytest.mark.slow
def test_picture_of_8k_is_read(checkpoint, tmp_path):
    path = write_timed(tmp_path / "v.mp4", [0, 0.5, 1.0], size=(7680, 4320), codec="mpeg4")
    recognizer = Recognizer.load(checkpoint, device="cpu")
    prediction = recognizer.predict(path)
    assert prediction.num_frames == 3
    assert recognizer.decode(path).shape == (4, 72, 128, 3)
