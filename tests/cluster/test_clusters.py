"""The files that start clusters: valid for those who read them, locked, and closed to who has no token."""

import fnmatch
import os
import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from raygap.cluster.submission import SENT

REPOSITORY = Path(__file__).parents[2]
CLUSTERS = REPOSITORY / "launch" / "clusters"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCKED = {
    package["name"]: package["version"] for package in tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
}


@pytest.mark.parametrize("name", ["own-machines", "aws"])
def test_ray_up_takes_the_file(name: str) -> None:
    config = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    validate_config(prepare_config(config))
    for remote, local in config["file_mounts"].items():
        assert remote.startswith(("~", "/")), remote
        assert local.startswith("~") or (REPOSITORY / local).exists(), local
    starts = [
        line for part in ("head", "worker") for line in config[f"{part}_start_ray_commands"] if "ray start" in line
    ]
    assert len(starts) == 2
    for line in starts:
        assert line.index("RAY_AUTH_MODE=token") < line.index("ray start")
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    assert "~/.ray/auth_token" in config["file_mounts"], "the token must be the same on each machine"
    assert any("uv sync --locked" in line for line in config["setup_commands"])
    python = re.search(r"--python (\S+)", " ".join(config["setup_commands"])).group(1)
    assert python in SpecifierSet(PROJECT["requires-python"])


def test_ray_would_refuse_a_slip_in_the_file() -> None:
    config = yaml.safe_load((CLUSTERS / "own-machines.yaml").read_text())
    config["setup_comands"] = config.pop("setup_commands")
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepare_config(config))


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with no room for fields that it does not name, as `kubectl apply` refuses them."""
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for part in schema.values():
            closed(part)
    elif isinstance(schema, list):
        for part in schema:
            closed(part)
    return schema


@pytest.fixture(scope="module")
def ray_job_schema() -> dict[str, Any]:
    """KubeRay's definition of a RayJob, ray.io/v1."""
    folder = os.environ.get("RAYGAP_KUBERAY")
    if not folder:
        pytest.skip("RAYGAP_KUBERAY names no folder with KubeRay's ray.io_rayjobs.yaml")
    definition = yaml.load(
        (Path(folder) / "ray.io_rayjobs.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    version = next(version for version in definition["spec"]["versions"] if version["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def ray_job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((CLUSTERS / "rayjob.yaml").read_text()))
    return next(document for document in documents if document["kind"] == "RayJob")


def test_kuberay_takes_the_job(ray_job_schema: dict[str, Any]) -> None:
    job = ray_job()
    assert job["apiVersion"] == "ray.io/v1"
    # A cluster's API server knows the names of all objects; the schema leaves them to it.
    jsonschema.validate({**job, "metadata": {}}, ray_job_schema)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate({**job, "metadata": {}}, ray_job_schema)


def test_the_job_is_closed_and_its_parts_fit_together() -> None:
    documents = {document["kind"]: document for document in yaml.safe_load_all((CLUSTERS / "rayjob.yaml").read_text())}
    spec = documents["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == LOCKED["ray"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    [image] = {container["image"] for pod in pods for container in pod["containers"]}
    assert image == f"raygap:{PROJECT['version']}"
    for pod in pods:
        [container] = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts) == set(volumes)
        assert mounts["shared"] == "/shared"
        claim = volumes["shared"]["persistentVolumeClaim"]["claimName"]
        assert claim == documents["PersistentVolumeClaim"]["metadata"]["name"]
        for variable in container.get("env", []):
            if re.search("KEY|TOKEN|SECRET", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"]
    command = shlex.split(spec["entrypoint"])
    assert Path(command[1]).relative_to("/opt/raygap") == Path("launch/sweep.py")
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert all(options[name].startswith("/shared/") for name in ("--out", "--cache"))


def test_the_image_is_locked_and_holds_what_a_sweep_needs() -> None:
    text = (CLUSTERS / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    [base] = [value for step, value in steps if step == "FROM"]
    assert re.fullmatch(r"python:(\d+\.\d+)-slim", base).group(1) in SpecifierSet(PROJECT["requires-python"])
    copied = [name for step, value in steps if step == "COPY" for name in value.split()[:-1]]
    assert set(copied) == {*SENT, "launch"}, "the job of rayjob.yaml calls launch/sweep.py"
    syncs = [index for index, (step, value) in enumerate(steps) if step == "RUN" and "uv sync" in value]
    assert all("--locked" in steps[index][1] for index in syncs)
    last_copy = max(index for index, (step, _) in enumerate(steps) if step == "COPY")
    assert syncs[-1] > last_copy > syncs[0], "raygap itself is installed last, its packages first"
    assert steps[-1][0] == "USER"
    assert steps[-1][1] != "root"
    assert not [value for step, value in steps if step in ("ARG", "ENV") and re.search("KEY|TOKEN|SECRET", value)]
    # The folder for its packages is the one whose Python the job's command finds.
    [folder] = [value for step, value in steps if step == "WORKDIR"]
    assert f"{folder}/.venv/bin" in text
    assert folder in ray_job()["spec"]["entrypoint"]


def test_what_is_copied_into_the_image_is_not_ignored() -> None:
    ignored = (CLUSTERS / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*", "nothing travels that is not named: no data, no runs, no keys"
    assert {line[1:] for line in ignored if line.startswith("!")} == {*SENT, "launch"}
    assert not any(fnmatch.fnmatch("raygap", line) for line in ignored[1:] if not line.startswith("!"))


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script on the first of two nodes. `ray` writes down what it is called with."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    programs = {
        "bin/scontrol": 'printf "node1\\nnode2\\n"',
        "bin/hostname": "echo 10.1.2.3 fe80::1",
        "bin/srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        ".venv/bin/ray": 'stat -c %a "$RAY_AUTH_TOKEN_PATH" > mode; cp "$RAY_AUTH_TOKEN_PATH" token\n'
        'env > env; printf "%s\\n" "$@" > called',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"export PATH={tmp_path}/.venv/bin:$PATH\n")
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "RAYGAP_STORAGE": str(tmp_path / "shared"),
        "SLURM_JOB_NAME": "ave",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }


def test_the_batch_script_starts_ray_on_all_nodes_and_goes_on_with_a_sweep(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    script = [
        "bash",
        str(CLUSTERS / "slurm.sh"),
        *("--dataset", "ave", "--root", "/shared/my clips"),
    ]
    assert subprocess.run(["bash", "-n", script[1]]).returncode == 0
    subprocess.run(script, env=slurm, cwd=tmp_path, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    ray, sweep = called[: called.index("--")], called[called.index("--") + 1 :]
    address = ray[ray.index("--address") + 1]
    assert re.fullmatch(r"10\.1\.2\.3:\d{5}", address)
    assert [ray[ray.index(name) + 1] for name in ("--min-nodes", "--num-cpus", "--num-gpus")] == ["2", "16", "4"]
    assert not {"--head", "--port", "--include-dashboard", "--block"} & {word.partition("=")[0] for word in ray}
    run = str(tmp_path / "shared" / "runs" / "ave")
    assert sweep[:4] == ["env", f"RAY_ADDRESS={address}", "python", "launch/sweep.py"]
    assert sweep[4:8] == ["--dataset", "ave", "--root", "/shared/my clips"]
    assert sweep[8:] == ["--out", run, "--cache", str(tmp_path / "shared" / "stores")]

    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len((tmp_path / "token").read_text().strip()) == 64
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert stat.S_IMODE(Path(environment["RAY_TMPDIR"]).stat().st_mode) == 0o700
    assert not Path(environment["RAY_AUTH_TOKEN_PATH"]).exists(), "the job's token ends with the job"

    (Path(run) / "sweep.yaml").write_text("")
    subprocess.run([*script[:2], "--dataset", "ave"], env=slurm, cwd=tmp_path, check=True)
    assert (tmp_path / "called").read_text().splitlines()[-1] == "--resume"
    without = {name: value for name, value in slurm.items() if name != "RAYGAP_STORAGE"}
    refused = subprocess.run(script, env=without, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "RAYGAP_STORAGE" in refused.stderr
