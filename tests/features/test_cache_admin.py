import torch

from evclip_ray.features.cache_admin import damaged_files, list_entries
from evclip_ray.features.encode import TextJob, run_job
from evclip_ray.features.spec import class_text


def test_damaged_file_is_found(tmp_path):
    spec = class_text("debug", "random")
    for word in ("one", "two"):
        run_job(TextJob(tmp_path, spec, (word,)), torch.device("cpu"))
    (entry,) = list_entries(tmp_path)
    assert (entry.folder.name, entry.kind, entry.files) == (spec.key, "class_text", 2)
    assert damaged_files(entry) == []
    path = next(entry.folder.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-20])
    assert damaged_files(entry) == [path]
