from numbered_videos import write_numbered


def test_verify_counts_videos_with_pixels_of_another_shape(call, tmp_path):
    write_numbered(tmp_path / "square.mp4", "libx264", numbers=range(4))
    for name in ("pal.mp4", "pal2.mp4"):
        write_numbered(tmp_path / name, "libx264", numbers=range(4), pixel_aspect="64/45")
    (tmp_path / "list.csv").write_text("path,label\nsquare.mp4,x\npal.mp4,x\npal2.mp4,y\n")
    result = call("manifest", "verify", tmp_path / "list.csv")
    assert result.exit_code == 0
    assert "2 videos have pixels that are not square (the first: pal.mp4, 64/45)" in result.output
