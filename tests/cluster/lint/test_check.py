# ruff: noqa: E501 - tables of cases, one per line
import re
from pathlib import Path

import pytest
import yaml

from evclip_ray.cluster.lint.check import check_file
from evclip_ray.cluster.lint.kubernetes import quantity
from evclip_ray.cluster.lint.problems import holds_secret, read_documents
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.config import ConfigError
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import find_space

FOLDER = Path(__file__).resolve().parents[3] / "cluster"
YAMLS = sorted(FOLDER.glob("*.yaml"))
CHECKED = [*YAMLS, FOLDER / "slurm.sh"]
ALL = [*CHECKED, FOLDER / "local.sh", FOLDER / "Dockerfile"]
FILLED = {"ami-FILL-IN": "ami-0123", "FILL-IN/32": "203.0.113.7/32", "FILL-IN": "mine"}


def name(path):
    return path.name


def filled(path):
    """Return the text of a file with its placeholders replaced."""
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
def test_file_starts_with_placeholders_and_costs(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True)[:20] if line.startswith("#"))
    assert "FILL IN" in head
    assert "COST" in head


@pytest.mark.parametrize("path", CHECKED, ids=name)
def test_shipped_file_only_lacks_its_placeholders(path):
    problems = check_file(path, Requirements())
    assert problems
    assert all(problem.text.startswith("replace FILL-IN in: ") for problem in problems)
    for problem in problems:
        assert "FILL-IN" in path.read_text().splitlines()[problem.line - 1]


@pytest.mark.parametrize("path", CHECKED, ids=name)
def test_filled_in_file_passes_and_a_study_fits(path, tmp_path, ev_clip):
    (tmp_path / path.name).write_text(filled(path))
    assert check_file(tmp_path / path.name, Requirements(ev_clip)) == []


@pytest.mark.parametrize("path", [p for p in YAMLS if not p.name.startswith("kuberay")], ids=name)
def test_rays_launcher_accepts_the_shipped_files(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(filled(path))))


@pytest.mark.parametrize("path", [p for p in YAMLS if p.name.startswith("kuberay")], ids=name)
def test_kubernetes_schema_accepts_the_pods(path):
    validator = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    for document in yaml.safe_load_all(filled(path)):
        if "ray.io" not in document["apiVersion"]:
            validator.validate(document, "1.34", strict=True)
            continue
        names = ("rayClusterSpec", "rayClusterConfig")
        spec = next((document["spec"][name] for name in names if name in document["spec"]), document["spec"])
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]}
            validator.validate(pod, "1.34", strict=True)


def test_config_map_lists_the_worker_groups():
    documents = {
        document.get("kind"): document for document in read_documents(FOLDER / "kuberay_cluster.yaml")
    }
    types = yaml.safe_load(documents["ConfigMap"].data["data"]["cluster.yaml"])["available_node_types"]
    for group in documents["RayCluster"].data["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        resources = types[group["groupName"]]["resources"]
        assert types[group["groupName"]]["max_workers"] == group["maxReplicas"]
        assert resources["CPU"] == quantity(limits["cpu"])
        assert resources["memory"] == quantity(limits["memory"])
        assert resources.get("GPU", 0) == quantity(limits.get("nvidia.com/gpu", 0))


def test_service_has_an_application_that_serve_accepts(monkeypatch):
    from ray.serve.schema import ServeDeploySchema

    from evclip_ray.deploy.server.limits import ServerSettings, token_of

    (service,) = yaml.safe_load_all(filled(FOLDER / "kuberay_service.yaml"))
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "evclip_ray.deploy.server.replica:application"
    settings = ServerSettings.load(application.args)
    monkeypatch.setenv("EVCLIP_RAY_TOKEN", "a-secret-token")
    assert token_of(settings) == "a-secret-token"
    # A worker must hold its replicas.
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert settings.replicas * settings.cpus <= group["maxReplicas"] * quantity(limits["cpu"])
    assert settings.replicas * settings.gpus <= group["maxReplicas"] * quantity(limits["nvidia.com/gpu"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("aws.yaml", "idle_timeout_minutes:", "idle_timeout_minuts:", "did you mean 'idle_timeout_minutes'"),
        ("aws.yaml", "    min_workers: 0", "    min_worker: 0", "did you mean 'min_workers'"),
        ("aws.yaml", "  region: us-west-2\n", "  regoin: us-west-2\n", "provider.region: is missing"),
        ("aws.yaml", "  region: us-west-2\n", "  regoin: us-west-2\n", "did you mean 'region'"),
        ("aws.yaml", "type: aws", "type: awz", "'awz' is unknown; did you mean 'aws'"),
        ("aws.yaml", "head_node_type: head", "head_node_type: heat", "must be one of `available_node_types`"),
        ("aws.yaml", "max_workers: 4", "max_workers: 0", "gpu_worker: max_workers is 0, so the type is never used"),
        ("aws.yaml", "GPU: 1, memory: 24000000000", "GPU: 1", "memory: is missing. Set the bytes"),
        ("aws.yaml", "VolumeSize: 150", "VolumeSize: 30", "a disk of 30 GB is too small"),
        ("aws.yaml", "203.0.113.7/32", "0.0.0.0/0", "port 22 is open to everyone"),
        ("aws.yaml", "0.1.0-cuda", "0.0.9-cuda", "has version 0.0.9-cuda, but this evclip-ray is"),
        ("aws.yaml", "evclip-ray:0.1.0-cpu", "evclip-ray:latest", "must name a version"),
        ("aws.yaml", "--volume=/shared:/shared", "--volume=/data:/data", "the container does not mount /shared"),
        ("aws.yaml", "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", "must listen on 127.0.0.1"),
        ("aws.yaml", "export RAY_AUTH_MODE=token RAY_LOGGER", "export RAY_LOGGER", "RAY_AUTH_MODE=token is missing"),
        ("aws.yaml", "  ~/.ray/auth_token: ~/.ray/auth_token", "  ~/a: ~/a", "auth_token is missing"),
        ("aws.yaml", "RAY_HEAD_IP:6379", "RAY_HEAD_IP:6380", "with --address=$RAY_HEAD_IP:6379, the port of the head"),
        ("aws.yaml", "server-port=10001", "server-port=10005", "is in the range of Ray's workers"),
        ("aws.yaml", "server-port=10001", "server-port=6379", "port 6379 is used twice"),
        ("gcp.yaml", "machineType: e2-standard-4", "machineType: e2-standard-4\n      scheduling: {preemptible: true}",
         "the head is a spot machine"),
        ("on_premises.yaml", "  - ~/evclip-venv/bin/python -m pip install --quiet ~/evclip-ray\n", "",
         "must install evclip-ray on every node"),
        ("kuberay_cluster.yaml", "image: mine/evclip-ray:0.1.0-cuda", "imag: x", "containers[0].image: is missing"),
        ("kuberay_cluster.yaml", "mode: token", "mode: disabled", "authOptions: must be {mode: token}"),
        ("kuberay_cluster.yaml", "ReadWriteMany]", "ReadWriteOnce]", "must be [ReadWriteMany]"),
        ("kuberay_cluster.yaml", "serviceType: ClusterIP", "serviceType: LoadBalancer", "must be ClusterIP"),
        ("kuberay_cluster.yaml", "claimName: evclip-ray-shared", "claimName: evclip-shared", "no claim"),
        ("kuberay_job.yaml", "kind: RayJob", "kind: RayJop", "did you mean 'RayJob'"),
        ("kuberay_service.yaml", "mode: token", "mode: disabled", "rayClusterConfig.authOptions: must be {mode: token}"),
        ("kuberay_service.yaml", "rayClusterConfig:", "rayCluster:", "spec: needs a rayClusterConfig"),
        ("slurm.sh", "#SBATCH --ntasks-per-node=1", "#SBATCH --ntasks-per-node=4", "must be 1, one Ray process tree per node"),
        ("slurm.sh", "#SBATCH --mem=64G\n", "", "#SBATCH --mem: is missing"),
    ],
)  # fmt: skip
def test_mistake_is_reported_with_its_line(tmp_path, file, old, new, message):
    path = changed(tmp_path, file, old, new)
    problems = check_file(path, Requirements())
    matching = [problem for problem in problems if message in problem.text]
    assert matching, problems
    lines = path.read_text().splitlines()
    assert 1 <= matching[0].line <= len(lines)


def test_reported_line_is_that_of_the_key(tmp_path):
    path = changed(tmp_path, "gcp.yaml", "CPU: 8, GPU: 1, memory: 24000000000", "CPU: 8, GPU: 1")
    (problem, *_) = check_file(path, Requirements())
    assert "gpu_worker" in problem.text
    lines = path.read_text().splitlines()
    assert "resources: {CPU: 8, GPU: 1" in lines[problem.line - 1]


def test_space_with_gpus_needs_machines_with_gpus(tmp_path):
    path = tmp_path / "aws.yaml"
    path.write_text(re.sub(r"  gpu_worker:.*?(?=  # Decodes)", "", filled(FOLDER / "aws.yaml"), flags=re.S))
    (problem,) = check_file(path, Requirements(space_of(gpus=1)))
    assert "but the cluster has" in problem.text
    assert "available_node_types" in path.read_text().splitlines()[problem.line - 1]


def test_gpu_type_without_gpu_trials_is_unused(tmp_path):
    (tmp_path / "aws.yaml").write_text(filled(FOLDER / "aws.yaml"))
    (problem,) = check_file(tmp_path / "aws.yaml", Requirements(space_of(gpus=0)))
    assert "gpu_worker: its GPUs are unused" in problem.text


def test_other_storage_folder_must_be_mounted(tmp_path):
    (tmp_path / "aws.yaml").write_text(filled(FOLDER / "aws.yaml"))
    problems = check_file(tmp_path / "aws.yaml", Requirements(storage=Path("/efs")))
    assert [problem.text.partition(":")[0] for problem in problems] == [
        "docker.run_options",
        "initialization_commands",
    ]


def test_broken_or_unknown_file_is_refused(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: {")
    with pytest.raises(ConfigError, match=r"broken\.yaml, line \d: not valid YAML"):
        check_file(broken, Requirements())
    broken.write_text("services: {web: {image: nginx}}")
    with pytest.raises(ConfigError, match="must be a file of 'ray up'"):
        check_file(broken, Requirements())


def test_secret_in_a_file_is_reported(tmp_path):
    path = changed(
        tmp_path, "aws.yaml", "cluster_name: evclip-ray", "cluster_name: AKIA" + "ABCDEFGHIJKLMNOP"
    )
    assert any("looks like a secret" in problem.text for problem in check_file(path, Requirements()))


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.iterdir() if p.is_file()), ids=name)
def test_shipped_files_contain_no_secret(path):
    for line in path.read_text().splitlines():
        assert not holds_secret(line), line
