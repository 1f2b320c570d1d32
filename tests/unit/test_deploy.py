"""deploy/, Dockerfile.triton and launch_server's command lines of all pages: schemas, options and
timeouts."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from documentation import PAGES, RUN, blocks
from trt_tokenizers.cli.main import launch_server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
#: launch_server kills this long after twice --drain-timeout, in seconds.
AFTER_DRAIN = 5


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def objects(name: str) -> list[Any]:
    return list(yaml.safe_load_all(read(name)))


LEADER_WORKER_SET = next(
    o for o in objects("deploy/leaderworkerset.yaml") if o["kind"] == "LeaderWorkerSet"
)["spec"]["leaderWorkerTemplate"]
SCRIPTS = objects("deploy/leaderworkerset.yaml")[0]["data"]
_KSERVE = objects("deploy/kserve.yaml")[0]["spec"]["predictor"]
#: Fields of KServe's own, beside those of a pod.
_KSERVE_OWN = ("minReplicas", "maxReplicas", "autoScaling")
PODS = {
    "kserve": {"spec": {k: v for k, v in _KSERVE.items() if k not in _KSERVE_OWN}},
    "kubernetes": objects("deploy/kubernetes.yaml")[0]["spec"]["template"],
    "leader": LEADER_WORKER_SET["leaderTemplate"],
    "worker": LEADER_WORKER_SET["workerTemplate"],
}
COMPOSE = yaml.safe_load(read("deploy/compose.yaml"))["services"]["triton"]
UNIT = configparser.ConfigParser(interpolation=None)
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read_string(read("deploy/trt-tokenizers.service"))


def container(pod: str) -> Any:
    return PODS[pod]["spec"]["containers"][0]


# The command lines of launch_server.


def shell_commands(text: str) -> Iterator[list[str]]:
    """Arguments of each launch_server in shell text; each variable becomes the number 2."""
    for line in text.replace("\\\n", " ").splitlines():
        match = re.search(
            r"(?<![\w/.-])(?:(?:/[\w/.-]+/)?launch_server|trt-tokenizers:latest(?= +--)) (.*)", line
        )
        if match and not line.lstrip().startswith("#"):
            words = re.sub(r"\$\(\([^)]*\)\)|\$\{\w+[^}]*\}|\$\w+", "2", match[1])
            yield shlex.split(words, comments=True)


COMMANDS = {
    "Dockerfile.triton": [
        json.loads(re.findall(r"^CMD (.*)", read("Dockerfile.triton"), re.MULTILINE)[0])
    ],
    "deploy/compose.yaml": [COMPOSE["command"]],
    "deploy/kubernetes.yaml": [container("kubernetes")["args"]],
    "deploy/kserve.yaml": [container("kserve")["args"]],
    "deploy/leaderworkerset.yaml": list(shell_commands(SCRIPTS["leader.sh"])),
    "deploy/slurm.sbatch": list(shell_commands(read("deploy/slurm.sbatch"))),
    "deploy/trt-tokenizers.service": list(shell_commands(UNIT["Service"]["ExecStart"])),
}
#: Blocks that need a cluster or an image too, which no test runs.
PAGES_COMMANDS = {
    str(page.relative_to(ROOT)): [
        argv
        for block in blocks(page)
        if block.language in RUN
        for argv in shell_commands(block.text)
    ]
    for page in PAGES
}
CASES = [
    pytest.param(argv, id=f"{name}-{number}")
    for name, found in {**COMMANDS, **PAGES_COMMANDS}.items()
    for number, argv in enumerate(found)
]


def parsed(argv: list[str]) -> dict[str, Any]:
    """The parameters that launch_server parses from *argv*.

    Raises:
        click.UsageError: it does not accept *argv*.
    """
    with launch_server.make_context("launch_server", list(argv)) as context:
        return dict(context.params)


def test_every_file_has_its_command() -> None:
    assert {name for name, found in COMMANDS.items() if not found} == set()
    assert {path.name for path in DEPLOY.iterdir()} - {Path(name).name for name in COMMANDS} == {
        "podmonitor.yaml",
        "inferencepool.yaml",
    }


@pytest.mark.parametrize("argv", CASES)
def test_launch_server_accepts_every_command(argv: list[str]) -> None:
    assert parsed(argv)["world_size"] >= 1


def test_a_wrong_option_is_detected() -> None:
    (argv,) = shell_commands("exec launch_server --model-repo x \\\n  --wrold-size 2 # why\n")
    with pytest.raises(click.UsageError, match="--wrold-size"):
        parsed(argv)


def drain(name: str) -> int:
    (argv,) = COMMANDS[name]
    return 2 * int(parsed(argv)["exit_timeout"]) + AFTER_DRAIN


# Docker.


def test_compose_follows_its_schema() -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(DEPLOY / "compose.yaml"),
        ],
        check=True,
    )


def test_compose_gives_time_to_drain() -> None:
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > drain("deploy/compose.yaml")


def test_hadolint_accepts_the_dockerfile() -> None:
    subprocess.run([str(BIN / "hadolint"), str(ROOT / "Dockerfile.triton")], check=True)


def test_the_container_runs_launch_server_and_not_as_root() -> None:
    text = read("Dockerfile.triton")
    (entry,) = re.findall(r"^ENTRYPOINT (.*)", text, re.MULTILINE)
    assert json.loads(entry)[-1] == "launch_server", "launch_server gets the signals, not a shell"
    assert re.findall(r"^USER (.*)", text, re.MULTILINE)[-1] != "0"
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n *CMD (.*)", text, re.MULTILINE)
    assert "/v2/health/ready" in json.loads(check)[-1]
    assert container("kubernetes")["securityContext"]["runAsNonRoot"] is True
    for pod in ("leader", "worker"):
        assert container(pod)["command"][:-2] == json.loads(entry)[:-1]


def test_the_dockerfile_copies_the_sources_of_the_package() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", read("Dockerfile.triton"), re.MULTILINE)
    sources = " ".join(copied).split()
    assert all((ROOT / source).exists() for source in sources)
    project = read("pyproject.toml")
    needed = re.findall(r'^readme = "(.*)"|^license-files = \["(.*)"\]', project, re.MULTILINE)
    assert {name for pair in needed for name in pair if name} <= set(sources)
    assert {"src", "model_repo_skeleton", "pyproject.toml"} <= set(sources)


# Kubernetes.


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("name", ["deploy/kubernetes.yaml", "deploy/leaderworkerset.yaml"])
def test_objects_follow_kubernetes_schema(name: str, version: str) -> None:
    """No schema of LeaderWorkerSet's own fields is available; its pods follow Kubernetes's."""
    for thing in objects(name):
        if thing["kind"] != "LeaderWorkerSet":
            kubernetes_validate.validate(thing, version, strict=True)
    for pod in PODS.values():
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "template": pod}
        kubernetes_validate.validate(wrapped, version, strict=True)


@pytest.mark.parametrize("pod", PODS)
def test_dev_shm_is_in_memory(pod: str) -> None:
    (mount,) = [m for m in container(pod)["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    volumes = {volume["name"]: volume for volume in PODS[pod]["spec"]["volumes"]}
    assert volumes[mount["name"]]["emptyDir"]["medium"] == "Memory"
    assert {m["name"] for m in container(pod)["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        ("kubernetes", "deploy/kubernetes.yaml"),
        ("kserve", "deploy/kserve.yaml"),
        ("leader", "deploy/leaderworkerset.yaml"),
    ],
)
def test_the_pods_timeouts(pod: str, name: str) -> None:
    stop = int(container(pod)["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert PODS[pod]["spec"]["terminationGracePeriodSeconds"] > stop + drain(name)
    startup = container(pod)["startupProbe"]
    wanted = parsed(COMMANDS[name][0])["ready_timeout"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= wanted
    ports = {port["name"] for port in container(pod)["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(pod)[probe]["httpGet"]["port"] in ports


def test_a_worker_outlives_the_leaders_draining() -> None:
    stop = int(container("worker")["lifecycle"]["preStop"]["exec"]["command"][-1])
    leaders = int(container("leader")["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert stop >= leaders + drain("deploy/leaderworkerset.yaml")
    assert PODS["worker"]["spec"]["terminationGracePeriodSeconds"] > stop


@pytest.mark.parametrize("name", ["deploy/kubernetes.yaml", "deploy/leaderworkerset.yaml"])
def test_services_find_their_pods(name: str) -> None:
    (service,) = [thing for thing in objects(name) if thing["kind"] == "Service"]
    pod = "kubernetes" if "kubernetes" in name else "leader"
    assert service["spec"]["selector"].items() <= PODS[pod]["metadata"]["labels"].items()
    ports = {port["name"] for port in container(pod)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    others = set(PODS) - {pod}
    for other in others & {"worker"}:
        labels = PODS[other]["metadata"]["labels"]
        assert not service["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("inferencepool", "targetPortNumber"),
        ("kserve", "replicas"),
        ("leaderworkerset", "size"),
        ("podmonitor", "endpoints"),
    ],
)
def test_kinds_that_are_not_kubernetes_own(name: str, unknown: str) -> None:
    (spec,) = (
        thing["spec"]
        for thing in objects(f"deploy/{name}.yaml")
        if thing["kind"] not in ("ConfigMap", "Service")
    )
    if name == "kserve":  # the rest is a pod
        spec = {key: _KSERVE[key] for key in _KSERVE_OWN}
    (schema,) = objects(f"tests/unit/deploy_schemas/{name}.yaml")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(spec, schema)
    with pytest.raises(jsonschema.ValidationError, match=f"'{unknown}' was unexpected"):
        jsonschema.validate({**spec, unknown: 9000}, schema)


def test_routers_ask_the_port_of_openais_api() -> None:
    (pool,) = objects("deploy/inferencepool.yaml")
    labels = pool["spec"]["selector"]["matchLabels"]
    assert labels.items() <= PODS["kubernetes"]["metadata"]["labels"].items()
    (target,) = pool["spec"]["targetPorts"]
    for pod in ("kubernetes", "kserve"):
        assert f"--openai-port={target['number']}" in container(pod)["args"]
        assert target["number"] in [port["containerPort"] for port in container(pod)["ports"]]


def test_the_pod_monitor_finds_the_pods() -> None:
    (monitor,) = objects("deploy/podmonitor.yaml")
    labels = monitor["spec"]["selector"]["matchLabels"]
    assert labels.items() <= PODS["kubernetes"]["metadata"]["labels"].items()
    ports = {port["name"] for port in container("kubernetes")["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_all_files_name_one_image() -> None:
    images = {container(pod)["image"] for pod in PODS} | {COMPOSE["image"]}
    assert images == {"trt-tokenizers:latest"}
    for name in ("Dockerfile.triton", "docs/deploy.md"):
        assert "docker build -f Dockerfile.triton -t trt-tokenizers:latest ." in read(name)


# Shell.


@pytest.fixture
def scripts(tmp_path: Path) -> list[Path]:
    """All shell scripts of deploy/, also those inside YAML."""
    found = [DEPLOY / "slurm.sbatch"]
    for name in ("leader.sh", "worker.sh"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{SCRIPTS[name]}")
        found.append(path)
    return found


def test_shellcheck_accepts_the_scripts(scripts: list[Path]) -> None:
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run([str(BIN / "shellcheck"), *map(str, scripts)], check=True)


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    """An environment where launch_server prints its arguments and ssh works at the second try."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "launch_server": 'printf "%s\\n" "$@"',
        "ssh": f'echo "$1" >> {tmp_path}/asked; test "$(grep -c "$1" {tmp_path}/asked)" -gt 1',
        "getent": 'echo "10.9.8.7 STREAM $2"; echo "10.9.8.7 DGRAM"',
        "sleep": "true",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked")}


def test_the_leader_waits_for_its_workers(scripts: list[Path], stand_ins: dict[str, str]) -> None:
    environ = {
        **stand_ins,
        "GPUS": "8",
        "POD_IP": "10.9.8.6",
        "POD_NAME": "trt-tokenizers-0",
        "LWS_GROUP_SIZE": "3",
        "LWS_LEADER_ADDRESS": "trt-tokenizers-0.trt-tokenizers.default",
    }
    done = subprocess.run(
        ["sh", str(scripts[1])], env=environ, capture_output=True, text=True, check=True
    )
    arguments = done.stdout.splitlines()
    assert "--hosts=10.9.8.6:8,10.9.8.7:8,10.9.8.7:8" in arguments
    assert "--world-size=24" in arguments
    first, second = (f"trt-tokenizers-0-{n}.trt-tokenizers.default" for n in (1, 2))
    asked = Path(environ["ASKED"]).read_text().split()
    assert asked == [first, first, second, second]


def test_the_batch_script_uses_slurms_variables(
    stand_ins: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {**stand_ins, "SLURM_NTASKS": "16", "SLURM_JOB_ID": "42"}
    script = ["bash", str(DEPLOY / "slurm.sbatch")]
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MODEL_REPO: set it to the model repository" in done.stderr
    environ["MODEL_REPO"] = "/shared/my models"
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=True)
    arguments = done.stdout.splitlines()
    assert arguments[arguments.index("--model-repo") + 1] == "/shared/my models"
    assert arguments[arguments.index("--world-size") + 1] == "16"
    assert (tmp_path / arguments[arguments.index("--log-dir") + 1]).is_dir()


def test_slurms_signal_comes_early_enough() -> None:
    (seconds,) = re.findall(r"--signal=B:TERM@(\d+)", read("deploy/slurm.sbatch"))
    # Slurm checks the time once a minute, and may send the signal up to a minute early.
    assert int(seconds) > drain("deploy/slurm.sbatch")


# systemd.


def test_the_units_timeouts() -> None:
    service = UNIT["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > drain("deploy/trt-tokenizers.service")
    (argv,) = COMMANDS["deploy/trt-tokenizers.service"]
    assert int(service["TimeoutStartSec"]) > parsed(argv)["ready_timeout"]


def test_systemd_analyze_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here; apt-get install systemd")
    unit = tmp_path / "trt-tokenizers.service"
    text = read("deploy/trt-tokenizers.service")
    # systemd-analyze checks that the program exists.
    unit.write_text(text.replace("/opt/trt-tokenizers/bin/", f"{BIN}/"))
    argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "Failed to" in done.stderr and "initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze does not run here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_documentation_names_existing_files() -> None:
    listed = set(re.findall(r"deploy/[\w.-]+\w", read("docs/deploy.md")))
    assert listed == {f"deploy/{path.name}" for path in DEPLOY.iterdir()}
