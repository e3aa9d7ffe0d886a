"""Who takes part in a run of several processes: command line, JAX's variables, SLURM, Open MPI or a TPU's environment.

`find` is a function of the options and the environment alone, so that it is tested without a cluster.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import re
import socket
from collections.abc import Mapping
from typing import Any

from bvjax.errors import UserError
from bvjax.plain_text import whole_number

PORTS = (
    61440,
    4096,
)  # the first of the ports that are taken by the number of a job, and how many there are


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line's words about processes; None: it has none."""

    coordinator: str | None = None  # HOST:PORT of process 0
    num_processes: int | None = None
    process_id: int | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Arguments of `jax.distributed.initialize`; those that are None are found by JAX itself."""

    found_in: str  # what said so, for the log
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_devices: tuple[int, ...] | None = None  # None: all that the process sees

    def arguments(self) -> dict[str, Any]:
        """The arguments by their names in `jax.distributed.initialize`."""
        given = dict(
            coordinator_address=self.coordinator,
            num_processes=self.num_processes,
            process_id=self.process_id,
            local_device_ids=None if self.local_devices is None else [*self.local_devices],
        )
        arguments = {name: value for name, value in given.items() if value is not None}
        if self.coordinator is not None:
            # Nothing is left to be found. JAX would still give a task of SLURM or Open MPI one device of its machine,
            # that of its local number, where `local_devices` is None: all.
            arguments["cluster_detection_method"] = "deactivate"
        return arguments


def find(options: Options, environ: Mapping[str, str], tpu: bool | None = None) -> Cluster | None:
    """The cluster that this process is part of; None: it works alone.

    Args:
        options: of the command line; they win.
        environ: variables of the environment. JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID come
            next, then those that SLURM's srun, Open MPI's mpirun and TPU machines set.
        tpu: whether this machine has TPU chips; None looks for them.

    Raises:
        UserError: only some of the three options or variables, or numbers that do not belong together.
    """
    explicit = _explicit(
        "the command line",
        ("`coordinator`", options.coordinator),
        ("`num_processes`", options.num_processes),
        ("`process_id`", options.process_id),
    )
    if explicit is not None:
        return explicit if explicit.num_processes != 1 else None
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if any(name in environ for name in names[1:]):  # JAX reads the address alone with any cluster
        values = [environ.get(names[0])] + [_number(environ, name) for name in names[1:]]
        explicit = _explicit("JAX_NUM_PROCESSES", *zip(names, values, strict=True))
        return explicit if explicit is not None and explicit.num_processes != 1 else None
    for cluster in (_slurm(environ), _open_mpi(environ)):
        if cluster is not None:
            return cluster if cluster.num_processes != 1 else None
    platforms = environ.get("JAX_PLATFORMS", "")
    if (tpu if tpu is not None else _has_tpu()) and (not platforms or "tpu" in platforms):
        workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
        if workers is not None:  # GKE
            several = "," in workers or int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1
            return Cluster("TPU_WORKER_HOSTNAMES") if several else None
        if "TPU_SKIP_MDS_QUERY" not in environ:
            return Cluster("the metadata of the TPU VM")
    return None


def local_flags(processes: int) -> list[list[str]]:
    """Returns the flags of each of several processes of one command on this machine; none for one process.

    The port is free when this is called, and may be taken by another program before the command listens.
    """
    if processes == 1:
        return [[]]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator=localhost:{free.getsockname()[1]}"
    count = f"--num-processes={processes}"
    return [[address, count, f"--process-id={i}"] for i in range(processes)]


def _explicit(where: str, *named: tuple[str, Any]) -> Cluster | None:
    missing = [name for name, value in named if value is None]
    if len(missing) == len(named):
        return None
    if missing:
        raise UserError(
            f"{', '.join(name for name, _ in named)} belong together: {', '.join(missing)} is missing"
        )
    address, count, index = (value for _, value in named)
    if not re.fullmatch(r"\S+:\d+", address):
        raise UserError(f"{named[0][0]} is {address!r}; it must be HOST:PORT of process 0")
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f"{named[2][0]} is {index} of {named[1][0]} {count}; it must be 0 to {max(count, 1) - 1}"
        )
    return Cluster(where, address, count, index)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    if name not in environ:
        return None
    value = whole_number(environ[name])
    if value is None:
        raise UserError(f"{name} is {environ[name]!r} in the environment; it must be a number")
    return value


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """A task that srun started. A shell of salloc or a batch script has no SLURM_PROCID of a step with others."""
    count, index = (_number(environ, name) for name in ("SLURM_NTASKS", "SLURM_PROCID"))
    nodes = environ.get("SLURM_STEP_NODELIST")  # srun sets it, sbatch alone does not
    job = _number(environ, "SLURM_JOB_ID")
    if count is None or index is None or job is None or not nodes:
        return None
    count = _number(environ, "SLURM_STEP_NUM_TASKS") or count
    local = _number(environ, "SLURM_LOCALID") or 0
    on_node = _tasks_on_node(environ)
    visible = _visible_gpus(environ)
    per_task = _number(environ, "SLURM_GPUS_PER_TASK")
    devices = _share(visible, local, on_node, owned=per_task is not None and per_task == visible)
    return Cluster("SLURM", f"{first_host(nodes)}:{port_of(job)}", count, index, devices)


def _tasks_on_node(environ: Mapping[str, str]) -> int:
    """Tasks of this step on this node, of `2(x3),1`: SLURM_STEP_TASKS_PER_NODE by SLURM_NODEID."""
    counts: list[int] = []
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    node = _number(environ, "SLURM_NODEID") or 0
    return counts[min(node, len(counts) - 1)]


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
    """A process of mpirun: Open MPI 4 tells where mpirun runs in its contact address, Open MPI 5 in its namespace."""
    count = _number(environ, "OMPI_COMM_WORLD_SIZE")
    index = _number(environ, "OMPI_COMM_WORLD_RANK")
    if count is None or index is None:
        return None
    local = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    on_node = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    old = re.match(r"(\d+)\.\d+;tcp(?:://([^:,]+)|6://\[([^\],]+))", uri)
    new = re.match(r"prterun-(.+)-(\d+)@", environ.get("PMIX_NAMESPACE", ""))
    if old is not None:
        host, number = old[2] or f"[{old[3]}]", int(old[1]) // 4096
    elif new is not None:
        host, number = new[1], int(new[2])
    elif count == 1:
        return None
    else:
        raise UserError(
            "mpirun does not say where it runs: give `coordinator`, `num_processes` and `process_id`"
        )
    devices = _share(_visible_gpus(environ), local, on_node)
    return Cluster("Open MPI", f"{host}:{port_of(number)}", count, index, devices)


def port_of(job: int) -> int:
    """A port that two jobs on one machine rarely share, the same as JAX takes."""
    first, count = PORTS
    return first + job % count


def first_host(nodes: str) -> str:
    """`gpu007` of SLURM's `gpu[007-009,012],login1`."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no node")
    return match[1] + (match[2] or "")


def _visible_gpus(environ: Mapping[str, str]) -> int | None:
    """How many GPUs the process sees, as far as the environment tells."""
    shown = environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES"))
    if shown is not None:
        return len([name for name in shown.split(",") if name.strip()])
    return _number(environ, "SLURM_GPUS_ON_NODE")


def _share(
    visible: int | None, local: int, on_node: int, owned: bool = False
) -> tuple[int, ...] | None:
    """The devices of the `local`-th of `on_node` processes that see the same ones.

    None, all that it sees: for a process that is alone on its machine, or was given devices of its own.
    """
    if visible is None or on_node == 1 or owned or visible < on_node:
        return None
    if visible % on_node:
        raise UserError(
            f"{on_node} processes cannot share {visible} GPUs of a machine evenly; start as many that divide them"
        )
    each = visible // on_node
    return tuple(range(local * each, (local + 1) * each))


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
