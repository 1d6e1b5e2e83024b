"""The Kubernetes manifests, built by kubectl and held against Kubernetes' own schemas and against what they speak of.

Not tried here: a cluster, KEDA, an ingress, a storage class, the Prometheus operator.
"""

import base64
import json
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from starlette.testclient import TestClient

from shared.catalogue import models as catalogue
from shared.settings import Settings
from tests.conftest import lacking
from tests.integration.api.ops.test_prometheus import _names
from tests.support.places import ROOT
from wanworks.cli.main import app

FOLDER = ROOT / "docker/kubernetes"
# The oldest that knows sidecars, and the newest that the schemas know.
VERSIONS = ("1.29", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
# Of clients of the API, not settings of its processes.
CLIENTS = {"WANWORKS_URL", "WANWORKS_API_KEY"}
OWN_KINDS = {"ScaledObject", "ScrapeConfig"}
EVERYTHING = (
    "\ncomponents:\n  - ../../components/shared-directory\n  - ../../components/prometheus\n  - ../../components/keda\n"
)

Manifest = dict[str, Any]


@cache
def built(which: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send: of the base, of the example, and of the example with a shared directory."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        lacking("no kubectl")
    folder = _copies() / ("base" if which == "base" else f"overlays/{which}")
    result = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return tuple(yaml.safe_load_all(result.stdout))


@cache
def _copies() -> Path:
    """The manifests with the secrets that the example asks for, beside an overlay that takes every component."""
    import tempfile

    copies = Path(tempfile.mkdtemp(prefix="wanworks-kubernetes-")) / "kubernetes"
    shutil.copytree(FOLDER, copies)
    example = copies / "overlays/example"
    shutil.copy(example / "secrets.env.example", example / "secrets.env")
    everything = copies / "overlays/everything"
    shutil.copytree(example, everything)
    text = (everything / "kustomization.yaml").read_text()
    text = re.sub(r"\ncomponents:\n(  .*\n)+", EVERYTHING, text)
    (everything / "kustomization.yaml").write_text(re.sub(r"      - WANWORKS_STORE_.*\n", "", text))
    return copies


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Any:
    yield
    if _copies.cache_info().currsize:
        shutil.rmtree(_copies().parent)


OVERLAYS = ("base", "example", "everything")
each = pytest.mark.parametrize("which", OVERLAYS)


def named(which: str, kind: str, name: str) -> Manifest:
    (found,) = [one for one in built(which) if one["kind"] == kind and one["metadata"]["name"].startswith(name)]
    return found


def workloads(which: str) -> list[Manifest]:
    return [one for one in built(which) if one["kind"] in ("Deployment", "StatefulSet")]


def containers(workload: Manifest) -> list[Manifest]:
    spec = workload["spec"]["template"]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(which: str, container: Manifest) -> set[str]:
    """Every name that the container is given."""
    said = {entry["name"] for entry in container.get("env", ())}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            said |= set(named(which, "ConfigMap", source["configMapRef"]["name"])["data"])
        elif which != "base" and source["secretRef"]["name"] != "wanworks-key":
            said |= set(named(which, "Secret", source["secretRef"]["name"])["data"])
    return said


@each
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_would_take_them(which: str, version: str) -> None:
    for manifest in built(which):
        if manifest["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(manifest, version, strict=True)


@each
def test_every_process_is_there(which: str) -> None:
    started = {container["command"][1] for one in workloads(which) for container in containers(one)} - {"-c"}
    assert started == {"web", "dispatcher", "beat", "flower", "worker", "io"}


@each
def test_commands_are_commands_of_ours(which: str) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    said = [
        json.dumps([one.get("command"), one.get("lifecycle"), one.get("readinessProbe")])
        for workload in workloads(which)
        for one in containers(workload)
    ]
    words = {match for text in said for match in re.findall(r'\bwanworks(?:", "| )([a-z-]+)', text)}
    assert {"web", "drain", "undrain", "status"} <= words <= known


def test_the_readme_names_commands_of_ours() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    said = set(
        re.findall(r"\bwanworks ([a-z-]+)", " ".join(re.findall(r"`[^`]+`", (FOLDER / "README.md").read_text())))
    )
    assert said <= known, said - known


@each
def test_only_settings_that_exist_are_set(which: str) -> None:
    known = {f"WANWORKS_{name.upper()}" for name in Settings.model_fields} | CLIENTS
    for workload in workloads(which):
        for container in containers(workload):
            said = {name for name in environment(which, container) if name.startswith("WANWORKS_")}
            assert said <= known, (container["name"], said - known)


@pytest.mark.parametrize("which", ["example", "everything"])
def test_what_is_set_can_be_read(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On top of what the images set."""
    secret = {
        name: base64.b64decode(value).decode() for name, value in named(which, "Secret", "wanworks")["data"].items()
    }
    image = (FOLDER.parent / "api.Dockerfile").read_text()
    for name, value in {**dict(re.findall(r"(WANWORKS_\w+)=(\S+)", image)), **secret}.items():
        monkeypatch.setenv(name, value)
    for name, value in named(which, "ConfigMap", "wanworks")["data"].items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (read.store_url is None) == (which == "everything")
    assert (read.store_path is None) == (which == "example")
    assert read.several_beats  # there are two


@each
def test_nothing_is_set_by_a_services_name(which: str) -> None:
    """Kubernetes tells pods of Services by variables such as WANWORKS_FLOWER_PORT, which is a setting."""
    assert all(one["spec"]["template"]["spec"]["enableServiceLinks"] is False for one in workloads(which))


@each
def test_every_container_is_confined_and_measured(which: str) -> None:
    for workload in workloads(which):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001  # as the images have it
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert paths >= {"/var/lib/wanworks", "/tmp"}  # all else is read-only


@each
def test_what_is_mounted_is_there(which: str) -> None:
    for workload in workloads(which):
        volumes = {one["name"] for one in workload["spec"]["template"]["spec"]["volumes"]}
        volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", ())}
        for container in containers(workload):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@each
def test_selectors_select(which: str) -> None:
    pods = [one["spec"]["template"]["metadata"]["labels"].items() for one in workloads(which)]
    for manifest in built(which):
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if manifest["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
            selector = selector["matchLabels"]
        if selector is None or manifest["kind"] in ("PersistentVolumeClaim", *OWN_KINDS):
            continue
        found = [labels for labels in pods if selector.items() <= labels]
        alone = manifest["kind"] != "NetworkPolicy" or len(selector) > 1
        assert len(found) == 1 if alone else found, manifest["metadata"]["name"]


@each
def test_services_lead_to_ports_that_are_open(which: str) -> None:
    ports = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: {
            port["name"]: port["containerPort"] for c in containers(one) for port in c.get("ports", ())
        }
        for one in workloads(which)
    }
    for service in (one for one in built(which) if one["kind"] == "Service"):
        component = service["spec"]["selector"]["app.kubernetes.io/component"]
        for port in service["spec"].get("ports", ()):
            assert ports[component][port["targetPort"]] == port["port"]
    data = named(which, "ConfigMap", "wanworks")["data"]
    services = {f"http://{one['metadata']['name']}:{one['spec']['ports'][0]['port']}" for one in built(which)
                if one["kind"] == "Service" and one["spec"].get("ports")}  # fmt: skip
    assert {data["WANWORKS_URL"], data["WANWORKS_FLOWER_URL"]} == services


@each
def test_whatever_may_be_disrupted_has_a_budget(which: str) -> None:
    several = {one["metadata"]["name"] for one in workloads(which)} - {"wanworks-flower"}
    assert {one["metadata"]["name"] for one in built(which) if one["kind"] == "PodDisruptionBudget"} == several
    for name in ("web", "dispatcher", "beat"):
        assert named(which, "Deployment", f"wanworks-{name}")["spec"]["replicas"] == 2


@each
def test_a_gpu_pod_is_a_node_with_one_gpu_and_its_io_worker(which: str) -> None:
    pod = named(which, "StatefulSet", "wanworks-gpu")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    io, undrain = pod["initContainers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (io["command"], io["restartPolicy"]) == (["wanworks", "io"], "Always")
    for container in (worker, io, undrain):
        (node,) = [entry for entry in container["env"] if entry["name"] == "WANWORKS_NODE"]
        assert node["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    models = [mount for one in (worker, io) for mount in one["volumeMounts"] if mount["name"] == "models"]
    assert [mount["mountPath"] for mount in models] == ["/srv/models"] * 2  # as the image has it
    assert pod["shareProcessNamespace"] is True


@each
def test_a_gpu_pod_that_ends_is_drained_in_the_time_it_has(which: str) -> None:
    pod = named(which, "StatefulSet", "wanworks-gpu")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    words = shlex.split(worker["lifecycle"]["preStop"]["exec"]["command"][2])
    assert words[:5] == ["exec", "wanworks", "drain", "$WANWORKS_NODE", "--wait"]
    assert int(words[words.index("--timeout") + 1]) + 60 < pod["terminationGracePeriodSeconds"]
    assert "livenessProbe" not in worker


def test_a_fresh_node_does_not_wait_for_a_drain_to_be_taken_back(tmp_path: Path) -> None:
    """The loop of the init container: again while the API is away (3), on with anything else."""
    pod = named("base", "StatefulSet", "wanworks-gpu")["spec"]["template"]["spec"]
    shell = pod["initContainers"][1]["command"]
    for codes, calls in (([0], 1), ([1], 1), ([3, 3, 0], 3)):
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        fake = tmp_path / "wanworks"
        fake.write_text('#!/bin/sh\necho call >> calls\ncode=$(head -n1 codes)\nsed -i 1d codes\nexit "$code"\n')
        fake.chmod(0o755)
        (tmp_path / "sleep").write_text("#!/bin/sh\n")
        (tmp_path / "sleep").chmod(0o755)
        (tmp_path / "calls").unlink(missing_ok=True)
        environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WANWORKS_NODE": "n"}
        assert subprocess.run(shell, cwd=tmp_path, env=environ, timeout=20).returncode == 0
        assert (tmp_path / "calls").read_text().count("call") == calls


def test_the_directory_is_seen_by_every_process() -> None:
    for workload in workloads("everything"):
        for container in containers(workload):
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert ("/srv/store" in mounted) == (container["name"] != "undrain"), container["name"]
    assert named("everything", "PersistentVolumeClaim", "wanworks-store")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_keda_asks_for_metrics_that_are_there(client: TestClient) -> None:
    scaled = named("example", "ScaledObject", "wanworks-gpu")["spec"]
    target = named("example", scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"]
    assert target["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 8)
    names = _names(client)
    models: dict[str, set[str]] = {}
    for trigger in scaled["triggers"]:
        assert (trigger["type"], trigger["metricType"]) in {("prometheus", "Value"), ("prometheus", "AverageValue")}
        assert float(trigger["metadata"]["threshold"]) > 0
        query = trigger["metadata"]["query"]
        assert query.count("(") == query.count(")")
        assert (asked := set(re.findall(r"\bwanworks_\w+", query))) <= names, query
        for name, inside in re.findall(r"(wanworks_\w+)\{([^}]*)\}", query):
            for model in re.findall(r'model=~?"([^"]+)"', inside):
                models.setdefault(name, set()).update(model.split("|"))
        assert asked
    every = set(catalogue.load("default").model_ids)
    assert models == {"wanworks_jobs": every, "wanworks_queue_oldest_seconds": every}


def test_prometheus_asks_the_service_once_with_a_key() -> None:
    scrape = named("example", "ScrapeConfig", "wanworks")["spec"]
    namespace = named("example", "Namespace", "wanworks")["metadata"]["name"]
    assert scrape["staticConfigs"] == [{"targets": [f"wanworks-web.{namespace}.svc:8000"]}]
    assert scrape["metricsPath"] == "/metrics"
    assert scrape["authorization"]["type"] == "Bearer"
    assert scrape["jobName"] == "wanworks"  # as the alert rules have it


def test_no_secret_is_in_the_repository() -> None:
    said = (FOLDER / "overlays/example/secrets.env.example").read_text().splitlines()
    assert all(line.endswith("=") or "PASSWORD@" in line for line in said)
    ignored = (FOLDER.parents[1] / ".gitignore").read_text().split()
    assert "docker/kubernetes/overlays/*/secrets.env" in ignored
    assert [one["metadata"]["name"] for one in built("base") if one["kind"] == "Secret"] == []
