import pytest

from evclip_ray import termination
from evclip_ray.cluster import doctor
from evclip_ray.cluster.doctor import Check, check_machine
from evclip_ray.models.weight_status import clip_weight_status, encoder_weight_status
from evclip_ray.training.experiment import ExperimentConfig

WORLD = {"backbone.name": "world-s", "method.video_encoder.name": "swin3d_world"}


def experiment(**overrides):
    return ExperimentConfig.load({"data": {"manifest": "none"}}, {**WORLD, **overrides})


@pytest.fixture
def checks(tmp_path):
    """Return a function that runs all checks but Ray's and returns them by name."""

    def run(**overrides):
        found = check_machine(experiment(**overrides), cache=tmp_path / "c", out=tmp_path, with_ray=False)
        return {check.name: check for check in found}

    return run


def test_each_check_has_a_state_and_failures_a_fix(checks):
    found = checks()
    assert {"versions", "GPU", "decoder", "cache", "output", "shared memory", "loopback"} <= found.keys()
    assert found["decoder"].state == "ok"
    assert "8 of 8 frames" in found["decoder"].text
    assert found["weights of world-s"].state == "ok"
    assert all((check.state == "ok") == (check.fix == "") for check in found.values())


def test_crash_of_one_check_is_a_failure_of_it(checks, monkeypatch):
    def crash():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(doctor, "_memory", crash)
    found = checks()
    assert found["CPU and memory"].state == "failed"
    assert "ZeroDivisionError: a bug" in found["CPU and memory"].text
    assert found["decoder"].state == "ok"


def test_wrong_frames_fail_the_decoder(checks, monkeypatch):
    monkeypatch.setattr(doctor, "_grey", lambda index: 30 if index else 200)
    written = doctor._write_tiny_video

    def write(path):
        with monkeypatch.context() as patch:
            patch.setattr(doctor, "_grey", lambda index: 100)
            return written(path)

    monkeypatch.setattr(doctor, "_write_tiny_video", write)
    assert checks()["decoder"].state == "failed"


def test_folder_that_cannot_be_written_fails_with_the_option():
    check = doctor._disk("cache", doctor.Path("/proc/none/cache"), 1, "--cache")
    assert (check.state, check.fix) == ("failed", "Choose another folder (--cache).")


def test_little_space_is_a_warning(tmp_path):
    check = doctor._disk("output", tmp_path / "new", 2**60, "--out")
    assert (check.state, check.text.startswith(f"{tmp_path / 'new'}: ")) == ("warning", True)


@pytest.mark.parametrize(
    ("driver", "cuda", "state", "part"),
    [
        (None, None, "ok", "none: training runs on the CPU"),
        ("550.1", None, "warning", "Install a PyTorch for CUDA"),
        ("550.1", "13.0", "warning", "needs a driver for CUDA 13.0"),
    ],
)
def test_gpu_that_pytorch_cannot_use_is_a_warning(monkeypatch, driver, cuda, state, part):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    check = doctor._gpu()
    assert check.state == state
    assert part in check.text + check.fix


def test_failed_start_of_ray_is_a_failure_with_logs(monkeypatch):
    def refuse(*arguments, **options):
        termination.ray_died("raylet")
        raise RuntimeError("The current node timed out during startup.")

    died = []
    monkeypatch.setattr(termination._State, "on_ray_death", died.append)
    monkeypatch.setattr(doctor, "connect", refuse)
    check = doctor._ray()
    assert check.state == "failed"
    # The command line's own handler would start the command again.
    assert died == []
    termination.ray_died("raylet")
    assert died == ["raylet"]
    assert "session_latest/logs" in check.fix


def test_missing_weights_name_the_host(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    status = clip_weight_status("ViT-B-16", None)
    assert (status.origin, status.host, status.is_present) == ("openai", "huggingface.co", False)

    def refuse(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    check = doctor._weight_check("weights of ViT-B-16", status, "backbone.pretrained")
    assert check.state == "warning"
    assert "huggingface.co is unreachable (no route)" in check.text


def test_weights_that_need_no_download_are_present(tmp_path):
    file = tmp_path / "mine.pt"
    file.touch()
    assert clip_weight_status("debug", None).is_present
    assert clip_weight_status("ViT-B-16", str(file)).file == file
    assert encoder_weight_status("swin3d_t", "random").is_present
    assert not encoder_weight_status("swin3d_t", "mistyped").is_present


def test_cached_weights_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    missing = encoder_weight_status("swin3d_t", "kinetics400")
    assert missing.host == "download.pytorch.org"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "swin3d_t-7615ae03.pth").touch()
    assert encoder_weight_status("swin3d_t", "kinetics400").is_present


@pytest.mark.slow
def test_ray_starts_runs_a_task_and_stops(tmp_path):
    found = {check.name: check for check in check_machine(experiment(), cache=tmp_path, out=tmp_path)}
    assert found["Ray"] == Check("Ray", "ok", found["Ray"].text)
    assert "ran a task" in found["Ray"].text
