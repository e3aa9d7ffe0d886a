"""Writes the files that start `experiments.train` on a cluster, checks them, and prints the one command to submit:

python -m experiments.launch --target=slurm --name=dit --chip=h100 --hosts=4 \\
    --config=experiments/configs/mini_dit.py --workdir=/shared/runs/dit

Targets: slurm (a batch script, with --image through pyxis), jobset (a manifest for GKE, TPUs or GPUs), tpu-vm (commands
for all workers of the TPU VM --name). Options of experiments.train follow after `--`. Nothing is submitted.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from absl import flags

from bvjax import console
from bvjax.files import cannot_write, write_atomic
from experiments.launching import jobset, slurm, tpu_vm
from experiments.launching.checks import check_config, check_manifest, check_shell
from experiments.launching.flags import FLAGS
from experiments.launching.job import Job

_TARGET = flags.DEFINE_enum(
    "target", None, ["slurm", "jobset", "tpu-vm"], "What starts it.", required=True
)
_CONFIG = flags.DEFINE_string("config", None, "Config of experiments.train.", required=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, alike for all machines.", required=True
)
_NAME = flags.DEFINE_string(
    "name", "bvjax", "Of the job; with tpu-vm the name of the machine's resource."
)
_CHIP = flags.DEFINE_enum("chip", None, list(FLAGS), "Generation of chips.", required=True)
_HOSTS = flags.DEFINE_integer("hosts", 1, "Machines, of all slices together.")
_DEVICES = flags.DEFINE_integer("devices-per-host", 0, "0: 8 GPUs or 4 TPU chips.")
_IMAGE = flags.DEFINE_string("image", "", "Container with the project (slurm: through pyxis).")
_PROJECT = flags.DEFINE_string("project", "", "Folder of the project on the machines.")
_PYTHON = flags.DEFINE_string("python", "python", "There, say .venv/bin/python.")
_RESTARTS = flags.DEFINE_integer("restarts", 10, "How often it is started again, at most.")
_GRACE = flags.DEFINE_integer("grace-seconds", 600, "From SIGTERM to the end.")
_TIME = flags.DEFINE_string("time", "", "slurm: limit of one start, 1-00:00:00.")
_PARTITION = flags.DEFINE_string("partition", "", "slurm: where to run.")
_ACCOUNT = flags.DEFINE_string("account", "", "slurm: who pays.")
_ACCELERATOR = flags.DEFINE_string("accelerator", "", "jobset: GKE's name, tpu-v5p-slice.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "jobset: of a TPU slice, 4x4x4.")
_SLICES = flags.DEFINE_integer("slices", 1, "jobset: TPU slices.")
_CLAIM = flags.DEFINE_string(
    "volume-claim", "", "jobset: PersistentVolumeClaim of the work folder."
)
_MOUNT = flags.DEFINE_string("mount", "", "jobset: where the claim is mounted.")
_ZONE = flags.DEFINE_string("zone", "", "tpu-vm: of the machine.")
_CLOUD_PROJECT = flags.DEFINE_string("cloud-project", "", "tpu-vm: of the machine.")
_OUT = flags.DEFINE_string("out", "launch", "Folder that gets the files.")
_DRY_RUN = flags.DEFINE_bool("dry-run", False, "Show the files, write nothing.")


def main(argv: list[str]) -> int:
    job = Job(
        name=_NAME.value,
        config=_CONFIG.value,
        workdir=_WORKDIR.value,
        chip=_CHIP.value,
        hosts=_HOSTS.value,
        devices_per_host=_DEVICES.value or (4 if _CHIP.value.startswith("v") else 8),
        image=_IMAGE.value,
        project=_PROJECT.value,
        python=_PYTHON.value,
        restarts=_RESTARTS.value,
        grace_seconds=_GRACE.value,
        words=tuple(argv[1:]),
    )
    check_config(job.config)
    name, text, check, submit = _file(_TARGET.value, job)
    looked = check(text)
    path = console.path(_OUT.value) / f"{job.name}{name}"
    if _DRY_RUN.value:
        console.tell(text)
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
        except OSError as error:
            raise cannot_write(path, error) from None
    console.say(f"checked by {', '.join(looked)}")
    if job.stored:
        console.say(
            "warning: experiments.train does not write to object stores yet and will refuse"
        )
    console.say("would be submitted by:" if _DRY_RUN.value else "submit it by:")
    console.tell(shlex.join([*submit, str(path)]))
    return 0


def _file(target: str, job: Job) -> tuple[str, str, Callable[[str], list[str]], tuple[str, ...]]:
    """The end of the file's name, its text, its check and the command that submits it."""
    if target == "slurm":
        script = slurm.script(job, _TIME.value, _PARTITION.value, _ACCOUNT.value)
        return ".sbatch", script, check_shell, ("sbatch",)
    if target == "tpu-vm":
        return ".sh", tpu_vm.script(job, _ZONE.value, _CLOUD_PROJECT.value), check_shell, ("bash",)
    place = jobset.Place(
        _ACCELERATOR.value, _TOPOLOGY.value, _SLICES.value, _CLAIM.value, _MOUNT.value
    )
    submit = ("kubectl", "create", "-f")
    return ".yaml", jobset.text(job, place), check_manifest, submit


if __name__ == "__main__":
    console.run_flags(main)
