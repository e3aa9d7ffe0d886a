"""A batch script of SLURM: one task a machine, all its GPUs; put in the queue again when its exit code asks for that."""

from __future__ import annotations

import re
import shlex

from bvjax.distributed.start import RESTART
from bvjax.errors import UserError
from experiments.launching.flags import FLAGS
from experiments.launching.job import Job


def script(job: Job, time: str = "", partition: str = "", account: str = "") -> str:
    """The script; srun's variables tell `experiments.train` who takes part.

    With an image, pyxis runs the task in it and mounts the work folder under the same path.

    Args:
        time: limit of one start, as SLURM writes it (`1-00:00:00`); "": the partition's.

    Raises:
        UserError: TPUs, which SLURM does not hand out; an option or a folder that SLURM or pyxis reads differently.
    """
    if job.tpu:
        raise UserError(
            f"`chip` is {job.chip!r}; slurm starts GPUs, TPUs are started by jobset or tpu-vm"
        )
    if time and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise UserError(f"`time` is {time!r}; it must be like 24:00:00 or 1-00:00:00")
    for name, value in (("partition", partition), ("account", account)):
        if not re.fullmatch(r"[\w.-]*", value, re.ASCII):
            raise UserError(f"`{name}` is {value!r}; it must be letters, digits, `_`, `.` and `-`")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.environment().items()]
    chosen = [("time", time), ("partition", partition), ("account", account)]
    enter = [f"cd -- {shlex.quote(job.project)} || exit 2"] if job.project and not job.image else []
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            f"#SBATCH --job-name={job.name}",
            f"#SBATCH --nodes={job.hosts}",
            "#SBATCH --ntasks-per-node=1",
            f"#SBATCH --gpus-per-node={job.devices_per_host}",
            "#SBATCH --exclusive",
            *(f"#SBATCH --{name}={value}" for name, value in chosen if value),
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            f"#SBATCH --output={job.name}-%j.log",
            "# SIGTERM to the tasks that many seconds before the time is over: a checkpoint has to fit.",
            f"#SBATCH --signal=TERM@{job.grace_seconds}",
            "",
            "set -uo pipefail",
            *enter,
            f"# Flags of XLA: {FLAGS[job.chip].source}",
            *exports,
            # Killing at once would hide the exit code of a failure behind a signal, which would start it again.
            f"srun --kill-on-bad-exit=0 --wait=60{_container(job)} {job.command()}",
            "code=$?",
            f"# {RESTART}: the state is saved, or a device hung. 128 and above: a signal; 130: a person stopped it.",
            f"if {job.restarted_test()}; then",
            f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {job.restarts} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "  fi",
            "fi",
            'exit "$code"',
            "",
        ]
    )


def _container(job: Job) -> str:
    """Options of pyxis."""
    if not job.image:
        return ""
    options = [f"--container-image={job.image}"]
    if not job.stored:
        if any(letter in job.workdir for letter in ":,"):
            raise UserError(
                f"`workdir` is {job.workdir!r}; pyxis cannot mount a folder with : or , in its name"
            )
        options.append(f"--container-mounts={job.workdir}:{job.workdir}")
    if job.project:
        options.append(f"--container-workdir={job.project}")
    return " " + shlex.join(options)
