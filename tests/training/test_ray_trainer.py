"""Resources that a killed worker group had reserved (ray_trainer.py)."""

from reservations import reserve, reserved

from evclip_ray.training.ray_trainer import release_places


def test_reservation_of_a_killed_group_is_released_once(local_ray, tmp_path):
    reserve("train-gone")
    assert reserved("train-gone")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "reservation").write_text("train-gone")
    release_places(tmp_path)
    assert not reserved("train-gone")
    assert not (tmp_path / ".ray").exists()
    release_places(tmp_path)
