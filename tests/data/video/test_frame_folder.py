import os
import shutil

import numpy as np
import pytest
from PIL import Image

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.manifest.leaks import find_leaks
from evclip_ray.data.storage import identities
from evclip_ray.data.video.decode import VideoError, decode_frames, decode_view, decode_views, probe
from evclip_ray.data.video.frame_folder import FrameFolder, frame_names
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig

SIZE = {"height": 48, "width": 64}
VIEW = ViewConfig(num_frames=4, **SIZE)


def picture(number, width=64, height=48):
    """Draw a picture whose brightness encodes its number; its upper left is lighter."""
    image = np.full((height, width, 3), 5 * number % 250, np.uint8)
    image[: height // 2, : width // 2] += 5
    return Image.fromarray(image)


@pytest.fixture
def write_frames(tmp_path):
    """Return a function that writes a folder of frames and returns its path."""

    def write(name="v", *, numbers=range(1, 21), template="img_{:05d}.png", **size):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for frame, number in enumerate(numbers):
            picture(frame, **size).save(folder / template.format(number))
        return folder

    return write


def numbers_in(frames):
    """Return the numbers that the brightness of pictures encodes."""
    return (frames[..., -1, -1, 0] // 5).tolist()


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("img_{:05d}.png", 1),
        ("frame_{:010d}.png", 1),
        ("{}.png", 0),
        ("{:06d}.bmp", 0),
        ("P01_2024-05-06 {}.png", 1),
        ("#v_{:05d}.PNG", 1),
        ("image{}.webp", 1),
        ("{:05d}.tiff", 1),
    ],
)
def test_frames_are_ordered_by_number(write_frames, template, first):
    folder = write_frames(template=template, numbers=range(first, first + 20))
    assert numbers_in(decode_frames(folder, [0, 9, 10, 19, 3], **SIZE)) == [0, 9, 10, 19, 3]
    assert probe(folder).num_frames == 20


def test_view_consists_of_the_sampled_frames(write_frames):
    folder = write_frames()
    views = decode_views(folder, view=VIEW, seeds=[None, 1, 2])
    for view, seed in zip(views, [None, 1, 2], strict=True):
        assert numbers_in(view) == frame_indices(20, view=VIEW, seed=seed).tolist()


def test_pixels_of_lossless_frames_are_exact(write_frames):
    folder = write_frames()
    (frame,) = decode_frames(folder, [7], **SIZE)
    assert (frame == np.asarray(picture(7))).all()


def test_only_the_frames_of_the_view_are_read(write_frames):
    folder = write_frames()
    view = decode_view(folder, view=VIEW)
    for path in folder.iterdir():
        if int(path.stem[-5:]) - 1 not in frame_indices(20, view=VIEW):
            path.write_bytes(b"no image")
    assert (decode_view(folder, view=VIEW) == view).all()


def test_probe_returns_the_facts_of_a_folder(write_frames):
    info = probe(write_frames(width=70), fps=10)
    assert (info.num_frames, info.fps, info.width, info.height) == (20, 10.0, 70, 48)
    assert (info.rotation, info.codec, info.duration_seconds) == (0, "png", pytest.approx(2.0))


def test_part_of_a_folder_is_in_frames_or_seconds(write_frames):
    folder = write_frames()
    view = ViewConfig(num_frames=5, **SIZE)
    assert numbers_in(decode_view(folder, view=view, start_frame=5, end_frame=10)) == [5, 6, 7, 8, 9]
    part = decode_view(folder, view=view, start_seconds=0.5, end_seconds=1.0, fps=10)
    assert numbers_in(part) == [5, 6, 7, 8, 9]
    assert numbers_in(decode_view(folder, view=view, start_frame=15, end_frame=90)) == [15, 16, 17, 18, 19]


def test_part_of_a_file_may_be_in_frames(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", options={"g": "5"})
    view = ViewConfig(num_frames=3, **SIZE)
    assert (
        decode_view(path, view=view, start_frame=30, end_frame=33)
        == decode_view(path, view=view, start_seconds=1.0, end_seconds=1.1)
    ).all()


def test_part_in_seconds_needs_the_frame_rate(write_frames):
    with pytest.raises(VideoError, match="has no times; give its frames per second in the column fps"):
        decode_view(write_frames(), view=VIEW, start_seconds=0.5)


def test_part_beyond_the_end_is_an_error_with_the_count(write_frames):
    with pytest.raises(VideoError, match="no frame is from 20 to 30; the video has 20 frames"):
        decode_view(write_frames(), view=VIEW, start_frame=20, end_frame=30)


@pytest.mark.parametrize(
    ("numbers", "template", "message"),
    [
        ([1, 2, 4], "img_{:05d}.png", "img_00003.png is missing; extract the frames again"),
        ([0, 1, 9, 11], "{}.png", "2.png is missing"),
        ([8, 9, 11], "{}.png", "1.png is missing: frames must start at 0 or 1, these start at 8"),
        ([5, 6], "frame_{:010d}.png", "frame_0000000001.png is missing: frames must start at 0 or 1"),
        ([], "", "is a folder without numbered images; name the frames like img_00001.jpg"),
    ],
)
def test_gap_is_refused_with_the_missing_name(write_frames, numbers, template, message):
    with pytest.raises(VideoError, match=message):
        decode_view(write_frames(numbers=numbers, template=template), view=VIEW)


def test_repeated_number_is_refused(write_frames):
    folder = write_frames(numbers=[1, 2])
    shutil.copy(folder / "img_00001.png", folder / "img_1.png")
    with pytest.raises(VideoError, match=r"img_00001.png and img_1.png have the same number; remove one"):
        decode_view(folder, view=VIEW)


def test_two_patterns_are_refused_and_other_files_ignored(write_frames):
    folder = write_frames()
    for name in ("flow_x_00001.jpg", "._img_00001.png", "cover.jpg", "notes_1.txt", "Thumbs.db"):
        (folder / name).touch()
    assert probe(folder).num_frames == 20
    (folder / "image_00001.png").touch()
    with pytest.raises(VideoError, match=r"two patterns, such as 'image_00001.png' and 'img_00001.png'"):
        probe(folder)


def test_frames_of_another_size_are_refused_by_name(write_frames):
    folder = write_frames()
    picture(9, width=62).save(folder / "img_00010.png")
    with pytest.raises(
        VideoError, match=r"img_00010.png is 62x48 but others are 64x48; resize them to one size"
    ):
        decode_frames(folder, range(20), **SIZE)


@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_error_names_the_frame_that_does_not_decode(write_frames, damage):
    path = write_frames() / "img_00003.png"
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(VideoError, match=r"frame img_00003.png does not decode"):
        decode_frames(path.parent, [2], **SIZE)


def test_error_names_a_frame_removed_after_listing(write_frames):
    folder = write_frames()
    with FrameFolder(folder) as video:
        (folder / "img_00003.png").unlink()
        with pytest.raises(VideoError, match=r"frame img_00003.png went missing"):
            video.read([2], lambda frame: frame.to_ndarray())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_rotated_by_their_exif(tmp_path, orientation):
    """Each of the eight EXIF orientations is undone."""
    lay_down = [
        lambda p: p,
        np.fliplr,
        lambda p: np.rot90(p, 2),
        np.flipud,
        lambda p: np.swapaxes(p, 0, 1),
        lambda p: np.rot90(p, 1),
        lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
        lambda p: np.rot90(p, -1),
    ]
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :16], upright[24:, 48:] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    laid = Image.fromarray(np.ascontiguousarray(lay_down[orientation - 1](upright)))
    (tmp_path / "v").mkdir()
    laid.save(tmp_path / "v" / "img_00001.jpg", exif=exif, quality=100, subsampling=0)
    (frame,) = decode_frames(tmp_path / "v", [0], **SIZE)
    assert np.abs(frame.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_grey_palette_and_transparent_frames_become_rgb(tmp_path, mode):
    (tmp_path / "v").mkdir()
    picture(9).convert(mode).save(tmp_path / "v" / "1.png")
    assert decode_frames(tmp_path / "v", [0], **SIZE).shape == (1, 48, 64, 3)


def test_frames_of_more_than_8_bits_are_refused(tmp_path):
    (tmp_path / "v").mkdir()
    Image.fromarray(np.full((48, 64), 300, np.uint16)).save(tmp_path / "v" / "1.png")
    with pytest.raises(VideoError, match=r"frame 1\.png has more than 8 bits per colour"):
        decode_frames(tmp_path / "v", [0], **SIZE)


def test_folder_with_a_video_suffix_is_a_folder(write_frames):
    """Folders of frames of HMDB51 have the name of their video, with its suffix."""
    assert probe(write_frames("April_09_brush_hair_u_nm_np1_ba_goo_0.avi")).num_frames == 20


def test_frame_added_later_is_found(write_frames):
    folder = write_frames()
    assert probe(folder).num_frames == 20
    picture(20).save(folder / "img_00021.png")
    os.utime(folder, ns=(1, 1))
    assert probe(folder).num_frames == 21


def test_frame_names_are_ordered():
    assert frame_names(["img_10.jpg", "img_9.jpg", "flow_x_9.jpg", "notes.txt"]) == [
        "img_9.jpg",
        "img_10.jpg",
    ]
    assert frame_names([]) == []


def test_verifying_reads_every_frame_of_a_folder(write_frames, make_manifest):
    write_frames("good")
    write_frames("gap", numbers=[1, 3])
    (write_frames("broken") / "img_00020.png").write_bytes(b"x")
    picture(3, width=62).save(write_frames("mixed") / "img_00012.png")
    manifest = make_manifest(
        path=["good", "gap", "broken", "mixed", "good"],
        label=["x"] * 5,
        start_frame=[None, None, None, None, 30],
    )
    good, gap, broken, mixed, beyond = verify_manifest(manifest, workers=2)
    assert (good.ok, good.info.num_frames) == (True, 20)
    assert "img_00002.png is missing" in gap.reason
    assert "img_00020.png does not decode" in broken.reason
    assert "img_00012.png is 62x48" in mixed.reason
    assert "the video has 20 frames" in beyond.reason


def test_equal_folders_with_two_names_are_a_leak(write_frames, make_manifest):
    for name in ("a", "b", "c"):
        write_frames(name)
    picture(3).save(write_frames("c") / "img_00001.png")
    manifest = make_manifest(path=["a", "b", "c"], label=["x"] * 3, split=["train", "test", "test"])
    (leak,) = find_leaks(manifest)
    assert (leak.kind, leak.rows) == ("content", (0, 1))


def test_edited_frame_changes_the_identity_of_its_folder(write_frames, tmp_path):
    folder = write_frames()
    before = identities(tmp_path, ["v"])["v"]
    assert before == identities(tmp_path, ["v"])["v"]
    os.utime(folder / "img_00003.png", ns=(1, 1))
    assert before != identities(tmp_path, ["v"])["v"]
