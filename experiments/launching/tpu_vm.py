"""Commands for a TPU VM: the same words on all workers; the metadata of the VM tells who takes part."""

from __future__ import annotations

import re
import shlex

from bvjax.distributed.start import RESTART
from bvjax.errors import UserError
from experiments.launching.flags import FLAGS
from experiments.launching.job import Job


def script(job: Job, zone: str = "", cloud_project: str = "") -> str:
    """A script that starts the run on all workers of the TPU VM `job.name`, and again while the exit code asks for it.

    Args:
        zone: of the VM; "": that of gcloud's configuration, as with `cloud_project`.

    Raises:
        UserError: chips that are no TPUs, an image, names that gcloud does not know.
    """
    if not job.tpu:
        raise UserError(
            f"`chip` is {job.chip!r}; a TPU VM has TPUs, GPUs are started by slurm or jobset"
        )
    if job.image:
        raise UserError("`image` is for slurm and jobset; a TPU VM has the project on its disk")
    where = []
    for name, option, value in (
        ("zone", "--zone", zone),
        ("cloud_project", "--project", cloud_project),
    ):
        if not re.fullmatch(r"[a-z0-9:.-]*", value):
            raise UserError(f"`{name}` is {value!r}; it must be small letters, digits and hyphens")
        where += [f"{option}={value}"] if value else []
    exports = [f"{name}={value}" for name, value in job.environment().items()]
    folder = shlex.quote(job.project or "bvjax")  # below the home folder
    remote = f"cd -- {folder} && exec {shlex.join(['env', *exports, *job.arguments()])}"
    reach = shlex.join(["gcloud", "compute", "tpus", "tpu-vm", "ssh", job.name, *where])
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            f"# Flags of XLA: {FLAGS[job.chip].source}",
            "set -uo pipefail",
            "code=0",
            f"for attempt in $(seq 0 {job.restarts}); do",
            '  echo "attempt $attempt"',
            f"  {reach} --worker=all --command={shlex.quote(remote)}",
            "  code=$?",
            f"  # {RESTART}: the state is saved, or a device hung. 255: ssh lost the machine. 130: a person stopped it.",
            f'  {job.restarted_test()} || exit "$code"',
            "  sleep 30",
            "done",
            'exit "$code"',
            "",
        ]
    )
