# ruff: noqa: E501 - tables of cases, one a line
import re
from pathlib import Path

import pytest
import yaml

from evclip_ray.cluster.lint.check import check_file
from evclip_ray.cluster.lint.kubernetes import quantity
from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import holds_secret, read_documents
from evclip_ray.config import ConfigError
from evclip_ray.tuning.search_space import SearchSpace, find_space, read_space

FOLDER = Path(__file__).resolve().parents[3] / "cluster"
YAMLS = sorted(FOLDER.glob("*.yaml"))
CHECKED = [*YAMLS, FOLDER / "slurm.sh"]
ALL = [*CHECKED, FOLDER / "local.sh", FOLDER / "Dockerfile"]
FILLED = {"ami-FILL-IN": "ami-0123", "FILL-IN/32": "203.0.113.7/32", "FILL-IN": "mine"}


def name(path):
    return path.name


def filled(path):
    """Its text as after filling in."""
    text = path.read_text()
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


def changed(tmp_path, file, old, new, *, count=1):
    text = filled(FOLDER / file)
    assert old in text
    path = tmp_path / file
    path.write_text(text.replace(old, new, count))
    return path


@pytest.fixture(scope="module")
def ev_clip():
    return read_space(find_space("ev_clip"), {"data.manifest": "any.csv"})


def space_of(**study):
    return SearchSpace.load(
        "mine",
        {"fixed": {"data.manifest": "a.csv"}, "search": {"optim.lr": {"uniform": [0.1, 0.2]}}},
        study=study,
    )


@pytest.mark.parametrize("path", ALL, ids=name)
def test_a_file_says_first_what_to_fill_in_and_what_it_costs(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True)[:20] if line.startswith("#"))
    assert "FILL IN" in head
    assert "COST" in head


@pytest.mark.parametrize("path", CHECKED, ids=name)
def test_a_shipped_file_wants_nothing_but_to_be_filled_in(path):
    problems = check_file(path, Needs())
    assert problems
    assert all("is to be filled in" in problem.text for problem in problems)
    for problem in problems:
        assert "FILL-IN" in path.read_text().splitlines()[problem.line - 1]


@pytest.mark.parametrize("path", CHECKED, ids=name)
def test_a_file_that_is_filled_in_passes_and_a_study_fits(path, tmp_path, ev_clip):
    (tmp_path / path.name).write_text(filled(path))
    assert check_file(tmp_path / path.name, Needs(ev_clip)) == []


@pytest.mark.parametrize("path", [p for p in YAMLS if not p.name.startswith("kuberay")], ids=name)
def test_rays_launcher_accepts_a_file_up_to_its_first_call_of_a_cloud(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(filled(path))))


@pytest.mark.parametrize("path", [p for p in YAMLS if p.name.startswith("kuberay")], ids=name)
def test_kubernetes_own_schema_accepts_the_pods(path):
    validator = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    for document in yaml.safe_load_all(filled(path)):
        if "ray.io" not in document["apiVersion"]:
            validator.validate(document, "1.34", strict=True)
            continue
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]}
            validator.validate(pod, "1.34", strict=True)


def test_the_machines_told_to_kubernetes_studies_are_those_of_the_worker_groups():
    documents = {
        document.get("kind"): document for document in read_documents(FOLDER / "kuberay_cluster.yaml")
    }
    told = yaml.safe_load(documents["ConfigMap"].data["data"]["cluster.yaml"])["available_node_types"]
    for group in documents["RayCluster"].data["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        resources = told[group["groupName"]]["resources"]
        assert told[group["groupName"]]["max_workers"] == group["maxReplicas"]
        assert resources["CPU"] == quantity(limits["cpu"])
        assert resources["memory"] == quantity(limits["memory"])
        assert resources.get("GPU", 0) == quantity(limits.get("nvidia.com/gpu", 0))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("aws.yaml", "idle_timeout_minutes:", "idle_timeout_minuts:", "nearest valid name is 'idle_timeout_minutes'"),
        ("aws.yaml", "    min_workers: 0", "    min_worker: 0", "nearest valid name is 'min_workers'"),
        ("aws.yaml", "  region: us-west-2\n", "  regoin: us-west-2\n", "provider.region: is missing"),
        ("aws.yaml", "  region: us-west-2\n", "  regoin: us-west-2\n", "nearest valid name is 'region'"),
        ("aws.yaml", "type: aws", "type: awz", "'awz' is unknown; the nearest valid name is 'aws'"),
        ("aws.yaml", "head_node_type: head", "head_node_type: heat", "must be one of `available_node_types`"),
        ("aws.yaml", "max_workers: 4", "max_workers: 0", "gpu_worker: max_workers is 0, so nothing ever uses it"),
        ("aws.yaml", "GPU: 1, memory: 24", "GPU: 2, memory: 24", "GPU: is 2, but the machine has 1"),
        ("aws.yaml", "CPU: 8, GPU: 1, ", "CPU: 8, ", "GPU: is missing, but the machine has 1 A10G"),
        ("aws.yaml", "GPU: 1, memory: 24000000000", "GPU: 1", "memory: is missing; say in bytes"),
        ("aws.yaml", "VolumeSize: 150", "VolumeSize: 30", "a disk of 30 GB is too small"),
        ("aws.yaml", "203.0.113.7/32", "0.0.0.0/0", "port 22 is open to everyone"),
        ("aws.yaml", "0.1.0-cuda", "0.0.9-cuda", "is of version 0.0.9-cuda, here it is"),
        ("aws.yaml", "evclip-ray:0.1.0-cpu", "evclip-ray:latest", "must name a version"),
        ("aws.yaml", "--volume=/shared:/shared", "--volume=/data:/data", "the container does not see /shared"),
        ("aws.yaml", "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", "must listen on 127.0.0.1"),
        ("aws.yaml", "export RAY_AUTH_MODE=token RAY_LOGGER", "export RAY_LOGGER", "RAY_AUTH_MODE=token is missing"),
        ("aws.yaml", "  ~/.ray/auth_token: ~/.ray/auth_token", "  ~/a: ~/a", "auth_token is missing"),
        ("aws.yaml", "RAY_HEAD_IP:6379", "RAY_HEAD_IP:6380", "by --address=$RAY_HEAD_IP:6379, the port of the head"),
        ("aws.yaml", "server-port=10001", "server-port=10005", "is among the ports of Ray's workers"),
        ("aws.yaml", "server-port=10001", "server-port=6379", "port 6379 is given twice"),
        ("gcp.yaml", "machineType: e2-standard-4", "machineType: e2-standard-4\n      scheduling: {preemptible: true}",
         "the head is a spot machine"),
        ("on_premises.yaml", "  - ~/evclip-venv/bin/python -m pip install --quiet ~/evclip-ray\n", "",
         "must install evclip-ray on every node"),
        ("kuberay_cluster.yaml", "minReplicas: 0", "minReplica: 0", "nearest valid name is 'minReplicas'"),
        ("kuberay_cluster.yaml", 'num-cpus: "0"', "num-cpus: 0", "0 is not of type 'string'"),
        ("kuberay_cluster.yaml", "image: mine/evclip-ray:0.1.0-cuda", "imag: x", "nearest valid name is 'image'"),
        ("kuberay_cluster.yaml", "mode: token", "mode: disabled", "authOptions: must be {mode: token}"),
        ("kuberay_cluster.yaml", "ReadWriteMany]", "ReadWriteOnce]", "must be [ReadWriteMany]"),
        ("kuberay_cluster.yaml", "serviceType: ClusterIP", "serviceType: LoadBalancer", "must be ClusterIP"),
        ("kuberay_cluster.yaml", "claimName: evclip-ray-shared", "claimName: evclip-shared", "no claim"),
        ("kuberay_job.yaml", "kind: RayJob", "kind: RayJop", "nearest valid name is 'RayJob'"),
        ("slurm.sh", "#SBATCH --ntasks-per-node=1", "#SBATCH --ntasks-per-node=4", "must be 1, one Ray a node"),
        ("slurm.sh", "#SBATCH --mem=64G\n", "", "#SBATCH --mem: is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path, file, old, new, told):
    path = changed(tmp_path, file, old, new)
    problems = check_file(path, Needs())
    matching = [problem for problem in problems if told in problem.text]
    assert matching, problems
    lines = path.read_text().splitlines()
    assert 1 <= matching[0].line <= len(lines)


def test_the_line_is_that_of_the_key(tmp_path):
    path = changed(tmp_path, "gcp.yaml", "machineType: g2-standard-8", "machineType: e2-standard-4")
    (problem, *_) = check_file(path, Needs())
    assert "gpu_worker" in problem.text
    lines = path.read_text().splitlines()
    assert "resources: {CPU: 8, GPU: 1" in lines[problem.line - 1]


def test_a_space_that_asks_for_gpus_needs_machines_with_them(tmp_path):
    path = changed(tmp_path, "aws.yaml", "InstanceType: g5.2xlarge", "InstanceType: g5.2xlarge")
    text = re.sub(r"  gpu_worker:.*?(?=  # Decodes)", "", path.read_text(), flags=re.S)
    path.write_text(text)
    (problem,) = check_file(path, Needs(space_of(gpus=1)))
    assert "but the cluster has" in problem.text
    assert "available_node_types" in path.read_text().splitlines()[problem.line - 1]


def test_a_gpu_type_is_unused_where_the_space_asks_for_none(tmp_path):
    (tmp_path / "aws.yaml").write_text(filled(FOLDER / "aws.yaml"))
    (problem,) = check_file(tmp_path / "aws.yaml", Needs(space_of(gpus=0)))
    assert "gpu_worker: nothing uses its GPUs" in problem.text


def test_another_storage_folder_must_be_mounted(tmp_path):
    (tmp_path / "aws.yaml").write_text(filled(FOLDER / "aws.yaml"))
    problems = check_file(tmp_path / "aws.yaml", Needs(storage=Path("/efs")))
    assert [problem.text.partition(":")[0] for problem in problems] == [
        "docker.run_options", "initialization_commands",
    ]  # fmt: skip


def test_a_broken_or_foreign_file_is_one_line(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: {")
    with pytest.raises(ConfigError, match=r"broken\.yaml, line \d: not valid YAML"):
        check_file(broken, Needs())
    broken.write_text("services: {web: {image: nginx}}")
    with pytest.raises(ConfigError, match="must be a file of 'ray up'"):
        check_file(broken, Needs())


def test_a_secret_in_a_file_is_told(tmp_path):
    path = changed(
        tmp_path, "aws.yaml", "cluster_name: evclip-ray", "cluster_name: AKIA" + "ABCDEFGHIJKLMNOP"
    )
    assert any("looks like a secret" in problem.text for problem in check_file(path, Needs()))


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.iterdir() if p.is_file()), ids=name)
def test_no_shipped_file_holds_anything_like_a_secret(path):
    for line in path.read_text().splitlines():
        assert not holds_secret(line), line
