import io
import struct

import numpy as np
import pytest
from PIL import Image

from evclip_ray.data.masks import MaskError, masks_of_view, open_masks, write_masks
from evclip_ray.data.video.decode import decode_view
from evclip_ray.data.video.view import ViewConfig


@pytest.fixture
def figure():
    """Masks of a bar that moves to the right, (N, H, W)."""
    masks = np.zeros((12, 48, 64), np.uint8)
    for number in range(12):
        masks[number, 8:40, 4 * number : 4 * number + 16] = 255
    return masks


@pytest.fixture
def video_of(tmp_path):
    """Return a function that writes grey frames without loss, as a folder of images."""

    def write(frames, name="video"):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / name / f"{number:05d}.png")
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "settings",
    [
        {"short_side": 32},
        {"height": 32, "width": 32},
        {"height": 32, "width": 56, "fit": "stretch"},
        {"short_side": 96, "sampling": "window", "window_frames": 8},
    ],
)
def test_masks_of_a_view_are_mapped_as_its_pixels(video_of, tmp_path, figure, settings):
    view, video = ViewConfig(num_frames=4, **settings), video_of(figure)
    write_masks(tmp_path / "mask.npz", figure)
    # The video shows its own mask, so that the mapped mask must be the decoded pixels.
    for seed in (None, 3):
        pixels = decode_view(video, view=view, seed=seed)
        masks = masks_of_view(tmp_path / "mask.npz", video, view=view, size=pixels.shape[1:3], seed=seed)
        np.testing.assert_array_equal(masks, pixels[..., 0])


def test_masks_of_a_part_count_the_frames_of_the_file(video_of, tmp_path, figure):
    view, video = ViewConfig(num_frames=4, short_side=32), video_of(figure)
    write_masks(tmp_path / "mask.npz", figure)
    part = {"start_seconds": 0.5, "end_seconds": 1.1, "fps": 10.0}
    pixels = decode_view(video, view=view, **part)
    masks = masks_of_view(tmp_path / "mask.npz", video, view=view, size=pixels.shape[1:3], **part)
    np.testing.assert_array_equal(masks, pixels[..., 0])


def test_masks_of_a_rotated_video_are_upright(write_video, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=4)
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 44
    # The display matrix of a quarter turn: 64 x 48 coded pixels are shown as 48 x 64.
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    video.write_bytes(data)
    write_masks(tmp_path / "upright.npz", np.ones((4, 64, 48), bool))
    write_masks(tmp_path / "coded.npz", np.ones((4, 48, 64), bool))
    view = ViewConfig(num_frames=2, short_side=24)
    assert masks_of_view(tmp_path / "upright.npz", video, view=view, size=(32, 24)).shape == (2, 32, 24)
    with pytest.raises(MaskError, match=r"64x48 pixels .* upright video's 48x64"):
        masks_of_view(tmp_path / "coded.npz", video, view=view, size=(32, 24))


def test_masks_of_half_the_resolution_are_enlarged(video_of, tmp_path, figure):
    video, view = video_of(figure), ViewConfig(num_frames=4, short_side=32)
    write_masks(tmp_path / "mask.npz", figure[:, ::2, ::2])
    pixels = decode_view(video, view=view)[..., 0]
    masks = masks_of_view(tmp_path / "mask.npz", video, view=view, size=(32, 43))
    assert ((masks >= 128) == (pixels >= 128)).mean() > 0.95


def test_three_kinds_of_masks_read_equal(video_of, tmp_path, figure):
    write_masks(tmp_path / "mask.npz", figure)
    folder = video_of(figure, "folder")
    Image.fromarray(figure[5]).save(tmp_path / "one.png")
    npz, images, one = (open_masks(tmp_path / name) for name in ("mask.npz", "folder", "one.png"))
    np.testing.assert_array_equal(npz.read([0, 5, 11]), images.read([0, 5, 11]))
    np.testing.assert_array_equal(one.read([0, 7])[1], figure[5])
    assert (npz.num_frames, images.num_frames, one.num_frames) == (12, 12, None)
    assert images.path == folder


@pytest.mark.parametrize("kind", [bool, "labels", "float", "palette"])
def test_values_of_masks_become_0_to_255(tmp_path, figure, kind):
    where = tmp_path / "mask.npz"
    if kind == "palette":
        where = tmp_path / "mask.png"
        # Two objects, numbers 1 and 2, of which number 2 is shown in black.
        image = Image.fromarray(np.where(figure[3] > 0, np.uint8(2), np.uint8(0)), "P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])
        image.save(where)
    else:
        write_masks(
            where, figure > 0 if kind is bool else figure // 255 if kind == "labels" else figure / 255.0
        )
    np.testing.assert_array_equal(open_masks(where).read([3])[0], figure[3])


def test_written_masks_have_equal_bytes(tmp_path, figure):
    for name in ("a.npz", "b.npz"):
        write_masks(tmp_path / name, figure)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((4, 8), complex), "must be bool"),
        (np.full((4, 8), 300), "must be bool, 0 to 255"),
        (np.full((4, 8), 1.5), "floats must be 0 to 1"),
        (np.full((4, 8), np.nan), "floats must be 0 to 1"),
        (np.zeros((2, 4, 8, 3), np.uint8), r"\(N, H, W\) or \(H, W\)"),
        (np.zeros((0, 4, 8), np.uint8), r"\(N, H, W\) or \(H, W\)"),
    ],
)
def test_invalid_masks_are_refused(tmp_path, masks, message):
    with pytest.raises(MaskError, match=message):
        write_masks(tmp_path / "mask.npz", masks)
    with pytest.raises(MaskError, match=r"ends with \.npz"):
        write_masks(tmp_path / "mask.npy", np.zeros((4, 8), bool))


def test_files_that_are_no_masks_are_named(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK")
    np.savez(tmp_path / "other.npz", figure=np.zeros((2, 2)))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "mask.txt").write_text("")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "colour.png")
    gaps = tmp_path / "gaps"
    gaps.mkdir()
    for number in (1, 3):
        Image.new("L", (4, 4)).save(gaps / f"{number}.png")
    for name, message in [
        ("cut.npz", "cannot be read as .npz"),
        ("other.npz", "must hold the array 'mask', it has figure"),
        ("text.png", "does not decode"),
        ("mask.txt", "suffix '.txt'"),
        ("empty", "without numbered images"),
        ("colour.png", "colour image"),
        ("gaps", "2.png is missing"),
        ("absent.npz", "is not there"),
        ("absent", "is not there"),
    ]:
        with pytest.raises(MaskError, match=message):
            open_masks(tmp_path / name)


def test_masks_of_another_number_of_frames_are_refused(video_of, tmp_path, figure):
    write_masks(tmp_path / "mask.npz", figure[:10])
    with pytest.raises(MaskError, match="masks of 10 frames, but the video has 12"):
        masks_of_view(tmp_path / "mask.npz", video_of(figure), view=ViewConfig(short_side=32), size=(32, 43))


def test_images_of_two_sizes_are_refused(video_of, tmp_path, figure):
    folder = video_of(figure)
    Image.fromarray(figure[0, :, :-2]).save(folder / "00004.png")
    with pytest.raises(MaskError, match=r"00004\.png is 62x48"):
        open_masks(folder).read([4])


def test_masks_are_read_from_a_storage(figure):
    import fsspec

    stream = io.BytesIO()
    np.savez_compressed(stream, mask=figure)
    with fsspec.open("memory://masks/a.npz", "wb") as target:
        target.write(stream.getvalue())
    assert open_masks("memory://masks/a.npz").num_frames == 12
    with pytest.raises(MaskError, match="is not there"):
        open_masks("memory://masks/b.npz")
