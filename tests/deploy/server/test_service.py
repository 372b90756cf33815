"""Decoding in other processes, with a recogniser whose logits are a mean of the pixels."""

import asyncio
import os
import signal

import av
import numpy as np
import pytest

from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.reading import read_views
from evclip_ray.deploy.server.limits import Limits, Refusal
from evclip_ray.deploy.server.metrics import Metrics
from evclip_ray.deploy.server.service import Options, RecognitionService
from evclip_ray.deploy.window_scores import WindowScores
from evclip_ray.deploy.windows import WindowLength

VIEW = ViewConfig(num_frames=4, short_side=32)


class FakeRecognizer:
    view, classes, calibration = VIEW, ("dark", "light"), None

    def predict_frames(self, frames, *, top_k, masks):
        scores = WindowScores(self.classes, None, top_k)
        mask = np.full((16, 16), 0.5, np.float32) if masks else None
        return [scores.window(logits(each), 0.0, 0.0, mask=mask) for each in frames]

    def with_classes(self, classes):
        if "unknown" in classes:
            raise ValueError("unknown word 'unknown'")
        other = FakeRecognizer()
        other.classes = tuple(classes)
        return other


def logits(frames):
    return np.array([0, frames.mean() / 64], np.float32)


class Server:
    """Service in an event loop of its own, with one process that decodes."""

    def __init__(self):
        self.loop, self.metrics = asyncio.new_event_loop(), Metrics()
        self.service = self._service(Limits(duration_seconds=60, windows=20, classes=3))
        self.run(self.service.start())

    def _service(self, limits):
        return RecognitionService(FakeRecognizer(), limits=limits, metrics=self.metrics, decoders=1)

    def run(self, work):
        return self.loop.run_until_complete(work)

    def recognize(self, path, **options):
        return self.run(self.service.recognize(path, "my.mp4", Options(**options)))

    def refused(self, path, **options):
        with pytest.raises(Refusal) as caught:
            self.recognize(path, **options)
        return caught.value

    def limited(self, **limits):
        """Change the limits of the next video."""
        self.service._pool._limits = Limits(**limits)
        self.service._pool._request["limits"] = limits

    @property
    def processes(self):
        return [process.pid for process in self.service._pool._processes]


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    processes = server.processes
    server.run(server.service.close())
    server.loop.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.fixture
def unlimited(server):
    """Restore the limits after the test."""
    before = server.service._pool._limits, server.service._pool._request["limits"]
    yield server
    server.service._pool._limits, server.service._pool._request["limits"] = before


def test_frames_of_the_process_are_those_of_the_recognizer(server, videos):
    answer = server.recognize(videos[1], masks=True)
    (view,) = read_views(videos[1], VIEW)
    np.testing.assert_array_equal(answer.prediction.overall.logits, logits(view.frames))
    assert (answer.prediction.duration_seconds, answer.prediction.num_frames) == (2.0, 50)
    assert answer.record()["windows"][0]["overlay"].startswith("data:image/jpeg;base64,")


def test_windows_and_classes_of_a_request(server, videos):
    answer = server.recognize(videos[2], window=1, stride=0.5, top_k=1, classes=("night", "day"))
    views = list(read_views(videos[2], VIEW, windows=WindowLength(1, 0.5)))
    assert len(views) == 5
    for window, view in zip(answer.prediction.windows, views, strict=True):
        assert (window.start_seconds, window.end_seconds) == (view.start_seconds, view.end_seconds)
        np.testing.assert_array_equal(window.logits, logits(view.frames))
        assert [score.name for score in window.scores] in (["night"], ["day"])
        assert window.mask is None


def test_requests_at_the_same_time_get_their_own_answers(server, videos):
    async def together():
        return await asyncio.gather(
            *(server.service.recognize(video, video.name, Options()) for video in videos * 3)
        )

    answers = server.run(together())
    for video, answer in zip(videos * 3, answers, strict=True):
        (view,) = read_views(video, VIEW)
        assert answer.prediction.video == video.name
        np.testing.assert_array_equal(answer.prediction.overall.logits, logits(view.frames))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 1}, "stride needs the length of a window"),
        ({"window": 0.1, "stride": 0.01}, "my.mp4: has 291 windows, more than the limit of 20"),
        ({"classes": tuple("abcd")}, "4 classes, the limit is 3"),
        ({"classes": ("unknown",)}, "classes: unknown word"),
    ],
)
def test_parameter_beyond_a_limit_is_refused(server, videos, options, message):
    refusal = server.refused(videos[2], **options)
    assert (refusal.status, message in str(refusal)) == (422, True)


def playlist(path):
    """Write a playlist (HLS), which would make FFmpeg open the file that it names."""
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


def audio(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def video(path, *, size=(64, 48), seconds_per_frame=1, num_frames=2):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height = size
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0]), np.uint8), format="gray")
            frame.pts = number * seconds_per_frame
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"x" * 5000), "is not a video that can be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(5000)), "is not a video that can be read"),
        (playlist, "is not a video that can be read"),
        (audio, "has no video stream"),
        (lambda path: video(path, size=(8000, 2048)), "has pictures of 8000 x 2048 pixels"),
        (lambda path: video(path, seconds_per_frame=7200), "more than the limit of 60 s"),
        (lambda path: path.mkdir(), "is not a video"),
    ],
)
def test_file_that_is_no_usable_video_is_refused(server, tmp_path, write, message):
    path = tmp_path / "upload"
    write(path)
    before = server.processes
    refusal = server.refused(path)
    assert (refusal.status, str(refusal).startswith("my.mp4: "), message in str(refusal)) == (422, True, True)
    assert server.processes == before


def test_decoder_that_hangs_is_ended_and_replaced(unlimited, tmp_path, videos):
    server = unlimited
    os.mkfifo(tmp_path / "upload")  # Nobody writes into it, so that opening it takes forever.
    server.limited(decode_seconds=0.05)
    before = server.processes
    assert "takes longer than 0.05 s to decode" in str(server.refused(tmp_path / "upload"))
    assert not server.processes
    server.limited()
    assert server.recognize(videos[0]).prediction.num_frames == 25
    assert server.processes != before
    assert server.metrics.decoder_restarts._value.get() == 1


@pytest.mark.slow
def test_decoder_that_crashes_is_replaced(unlimited, tmp_path, videos):
    server = unlimited
    os.mkfifo(tmp_path / "upload")

    async def crash():
        task = asyncio.create_task(server.service.recognize(tmp_path / "upload", "my.mp4", Options()))
        await asyncio.sleep(0.2)
        os.kill(server.processes[0], signal.SIGSEGV)
        with pytest.raises(Refusal, match=r"ends the decoder \(SIGSEGV\)"):
            await task

    server.run(crash())
    assert server.recognize(videos[0]).prediction.num_frames == 25


@pytest.mark.slow
def test_cancelled_request_ends_its_decoder(unlimited, tmp_path, videos):
    server = unlimited
    os.mkfifo(tmp_path / "upload")

    async def cancel():
        task = asyncio.create_task(server.service.recognize(tmp_path / "upload", "my.mp4", Options()))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.run(cancel())
    assert not server.processes
    assert server.recognize(videos[0]).prediction.num_frames == 25


@pytest.mark.slow
def test_decoder_that_fills_its_memory_is_refused(unlimited, tmp_path, videos):
    server = unlimited
    video(tmp_path / "upload", size=(4096, 2304), num_frames=30)
    server.limited(decode_megabytes=256)
    # 30 frames of windows that overlap are kept, of 28 MB each.
    server.service._pool._request["view"]["short_side"] = 2304
    try:
        refusal = server.refused(tmp_path / "upload", window=30, stride=1)
    finally:
        server.service._pool._request["view"]["short_side"] = VIEW.short_side
    assert refusal.status == 422
    server.limited()
    assert server.recognize(videos[0]).prediction.num_frames == 25
