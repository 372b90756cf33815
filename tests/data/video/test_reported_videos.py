"""Videos made after public reports (`shared/cases`): the frames are those that their README files list."""

import pytest
from numbered_videos import number_of

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.video.decode import VideoError, decode_view, probe
from evclip_ray.data.video.view import ViewConfig

PARTS = {
    "06_two_cuts_by_edit_list/ed_g20bf_200_two_mid.mp4": (0.7, 1.56),
    "23_palette_with_the_first_packet/pal_smc.mov": (1.0, 2.0),
}
# File -> the numbers of a view of its part, or of the whole file.
NUMBERS = {
    "01_tags_not_utf8/meta_latin1.mp4": [7, 22, 37, 52],
    "01_tags_not_utf8/meta_sjis.avi": [3, 11, 18, 26],
    "02_every_frame_flagged_as_key/mpeg4_long_nostss.mp4": [12, 37, 62, 87],
    "02_every_frame_flagged_as_key/divx3_nostss.mov": [12, 37, 62, 87],
    "03_mirrored_recordings/matrix_hflip.mp4": None,
    "03_mirrored_recordings/matrix_transpose.mp4": None,
    "04_mkv_without_key_flags/noflag_l100.mkv": [6, 18, 31, 43, 56, 68, 81, 93],
    "06_two_cuts_by_edit_list/ed_g20bf_200_two_mid.mp4": [26, 31, 36, 42],
    "09_pixels_that_are_not_square/anamorphic.mp4": None,
    "10_small_stream_first/preview_first.mp4": [7, 22, 37, 52],
    "11_empty_sample/zero_mid_mj.mov": [3, 11, 18, 26],
    "11_empty_sample/zero_mid_mp4v_i.mp4": [3, 11, 18, 26],
    "23_palette_with_the_first_packet/pal_smc.mov": [28, 34, 40, 46],
}


@pytest.fixture(scope="module")
def cases(shared):
    if not (shared / "cases").is_dir():
        pytest.skip("needs shared/cases (files made after public reports)")
    return shared / "cases"


def view_of(path, name, count, **size):
    start, end = PARTS.get(name, (None, None))
    view = ViewConfig(num_frames=count, fit="stretch", **size)
    return decode_view(path / name, view=view, start_seconds=start, end_seconds=end)


@pytest.mark.parametrize("name", [name for name, numbers in NUMBERS.items() if numbers])
def test_view_of_a_reported_video_has_the_right_frames(cases, name):
    frames = view_of(cases, name, len(NUMBERS[name]), height=48, width=80)
    assert [number_of(frame) for frame in frames] == NUMBERS[name]


def test_mirrored_recordings_are_upright(cases):
    """Bar 0 is on the left of the coded frames, so the bars are read in reverse or from the side."""
    hflip = view_of(cases, "03_mirrored_recordings/matrix_hflip.mp4", 4, height=48, width=80)
    assert [number_of(frame[:, ::-1]) for frame in hflip] == [7, 22, 37, 52]
    transpose = view_of(cases, "03_mirrored_recordings/matrix_transpose.mp4", 4, height=80, width=48)
    assert [number_of(frame.transpose(1, 0, 2)) for frame in transpose] == [7, 22, 37, 52]


def test_circle_of_a_pal_video_is_round(cases):
    path = cases / "09_pixels_that_are_not_square/anamorphic.mp4"
    view = ViewConfig(num_frames=1, height=256, width=256, pixels="display")
    inside = decode_view(path, view=view)[0, :, :, 0] > 128
    assert abs(inside.any(0).sum() - inside.any(1).sum()) <= 1


@pytest.mark.parametrize("name", ["codecid.mkv", "fourcc.avi"])
def test_reported_codec_without_a_decoder_is_a_reason(cases, name):
    with pytest.raises(VideoError, match="no decoder for its codec"):
        probe(cases / "05_unknown_codec" / name)


def test_verify_finds_the_reported_videos_intact(cases, make_manifest):
    bounds = [PARTS.get(name, (None, None)) for name in NUMBERS]
    manifest = make_manifest(
        cases,
        path=[*NUMBERS, "05_unknown_codec/fourcc.avi"],
        label=["x"] * (len(NUMBERS) + 1),
        start_seconds=[*(start for start, _ in bounds), None],
        end_seconds=[*(end for _, end in bounds), None],
    )
    *intact, unknown = verify_manifest(manifest, workers=2)
    assert [(report.path, report.reason) for report in intact if not report.ok] == []
    assert "no decoder" in unknown.reason
