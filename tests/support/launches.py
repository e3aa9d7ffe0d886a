"""The jobs of the golden files; `python tests/support/launches.py` writes these again."""

from __future__ import annotations

from pathlib import Path

from experiments.launching import jobset, slurm, tpu_vm
from experiments.launching.job import Job
from experiments.launching.jobset import Place

GOLDEN = Path(__file__).parents[1] / "experiments" / "launching" / "golden"


def job(**changes) -> Job:
    """A run on two machines of H100."""
    fields = dict(
        name="dit",
        config="c.py",
        workdir="/shared/runs/dit",
        chip="h100",
        hosts=2,
        devices_per_host=8,
    )
    return Job(**(fields | changes))


DISK = dict(volume_claim="runs", mount="/shared")
TPU = Place("tpu-v5p-slice", "2x2x2", slices=2, **DISK)


def files() -> dict[str, str]:
    """{name of a golden file: its text}."""
    tpu = dict(chip="v5p", hosts=4, devices_per_host=4)
    return {
        "plain.sbatch": slurm.script(job()),
        "pyxis.sbatch": slurm.script(
            job(chip="b200", image="team/bvjax.sqsh", project="/bvjax", workdir="/shared/my runs"),
            "1-00:00:00",
            "gpu",
            "team",
        ),
        "tpu_vm.sh": tpu_vm.script(
            job(
                chip="v6e", workdir="gs://bucket/run", words=("--config.train.mesh=data=2,fsdp=4",)
            ),
            "us-east5-a",
            "team",
        ),
        "jobset_tpu.yaml": jobset.text(job(image="registry/bvjax:1", **tpu), TPU),
        "jobset_gpu.yaml": jobset.text(
            job(image="registry/bvjax:1", project="/bvjax"), Place("nvidia-h100-80gb", **DISK)
        ),
    }


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in files().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
