"""A manifest of JobSet (jobset.x-k8s.io/v1alpha2) for GKE: TPU slices or GPU machines, with the rules of restarting."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import Any

import yaml

from bvjax.errors import UserError
from experiments.launching.flags import FLAGS
from experiments.launching.job import RESTARTED, Job

COORDINATOR_PORT = 6002  # of GPU runs; on TPUs JAX finds its own
TPU_PORTS = (8471, 8482, 8080)  # libtpu's, JAX's coordinator, several slices


@dataclasses.dataclass(frozen=True)
class Place:
    """Where GKE starts the containers, and the disk that they share."""

    accelerator: str = ""  # GKE's name of the chips: tpu-v5p-slice, nvidia-h100-80gb
    topology: str = ""  # of a TPU slice: 4x4x4
    slices: int = 1  # that share the machines evenly, for TPUs
    volume_claim: str = ""  # a PersistentVolumeClaim that all machines may write
    mount: str = ""  # where it is mounted; the work folder is below


def manifest(job: Job, place: Place) -> dict[str, Any]:
    """The manifest as a dictionary; `job.hosts` are those of all slices.

    A process that ends with one of `RESTARTED` starts all again, at most `job.restarts` times; another code is final.

    Raises:
        UserError: no image, no accelerator, a TPU slice without its topology, machines that slices do not share, or a
            work folder that is on no disk of the containers.
    """
    _check(job, place)
    selector = {"cloud.google.com/gke-accelerator": place.accelerator}
    metadata: dict[str, Any] = {"name": job.name}
    if job.tpu:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": place.accelerator,
            "cloud.google.com/gke-tpu-topology": place.topology,
        }
        alone = "alpha.jobset.sigs.k8s.io/exclusive-topology"  # a slice is a pool of nodes
        metadata["annotations"] = {alone: "cloud.google.com/gke-nodepool"}
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if place.volume_claim:
        claim = {"claimName": place.volume_claim}
        volumes.append({"name": "shared", "persistentVolumeClaim": claim})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector,
        "containers": [_container(job, place)],
        "volumes": volumes,
    }
    restarted = {"containerName": "train", "operator": "NotIn", "values": list(RESTARTED)}
    hosts = job.hosts // place.slices
    template = {
        "spec": {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": restarted}]},
            "template": {"spec": pod},
        }
    }
    # A Job that its rule has failed is failed for good; any other failure starts all Jobs again.
    final = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": job.restarts, "rules": [{"name": "final", **final}]},
            "replicatedJobs": [{"name": "workers", "replicas": place.slices, "template": template}],
        },
    }


def text(job: Job, place: Place) -> str:
    """The manifest as YAML."""
    body = yaml.safe_dump(manifest(job, place), sort_keys=False, default_flow_style=None, width=100)
    return f"# Flags of XLA: {FLAGS[job.chip].source}\n{body}"


def _container(job: Job, place: Place) -> dict[str, Any]:
    environment = job.environment() | {"JAX_PLATFORMS": "tpu,cpu" if job.tpu else "cuda,cpu"}
    env: list[dict[str, Any]] = [{"name": n, "value": v} for n, v in environment.items()]
    if not job.tpu:  # on TPUs GKE tells who takes part
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        first = f"{job.name}-workers-0-0.{job.name}:{COORDINATOR_PORT}"
        env += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
            {"name": "JAX_NUM_PROCESSES", "value": str(job.hosts)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        ]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if place.volume_claim:
        mounts.append({"name": "shared", "mountPath": place.mount})
    resource = "google.com/tpu" if job.tpu else "nvidia.com/gpu"
    container: dict[str, Any] = {
        "name": "train",
        "image": job.image,
        # No shell: SIGTERM reaches Python. Kubernetes reads $$ as one $, and $(NAME) as a variable.
        "command": [word.replace("$", "$$") for word in job.arguments()],
        "env": env,
        "ports": [{"containerPort": p} for p in (TPU_PORTS if job.tpu else (COORDINATOR_PORT,))],
        "resources": {"limits": {resource: str(job.devices_per_host)}},
        "volumeMounts": mounts,
    }
    if job.project:
        container["workingDir"] = job.project
    return container


def _check(job: Job, place: Place) -> None:
    if not job.image:
        raise UserError("`image` is missing: JobSet starts containers with the project in them")
    if not place.accelerator:
        raise UserError("`accelerator` is missing: GKE's name of the chips, say tpu-v5p-slice")
    if job.tpu and not place.topology:
        raise UserError("`topology` is missing: that of a TPU slice, for example 4x4x4")
    if not job.tpu and (place.topology or place.slices != 1):
        raise UserError("`topology` and `slices` are of TPUs; GPUs have neither")
    if place.slices < 1 or job.hosts % place.slices:
        raise UserError(f"`slices` is {place.slices}; it must divide the {job.hosts} hosts")
    if bool(place.volume_claim) != bool(place.mount):
        raise UserError("`volume_claim` and `mount` belong together: a disk, and its folder")
    if not job.stored and not (
        place.mount.startswith("/")
        and PurePosixPath(job.workdir).is_relative_to(place.mount)
        and ".." not in PurePosixPath(job.workdir).parts
    ):
        raise UserError(
            f"`workdir` is {job.workdir!r}, which ends with its container: it must be below `mount`, where "
            "`volume_claim` is"
        )
