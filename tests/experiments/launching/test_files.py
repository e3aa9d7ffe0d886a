"""Files of launchers: golden ones, run by bash against stand-ins for the launchers' commands, and their quoting."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launches import DISK, GOLDEN, TPU, files, job

from bvjax.distributed.cluster import Options, find
from bvjax.errors import UserError
from experiments.launching import jobset, slurm, tpu_vm
from experiments.launching.checks import check_manifest, check_shell
from experiments.launching.flags import FLAGS
from experiments.launching.job import RESTARTED
from experiments.launching.jobset import Place

# Everything that a shell, SLURM or Kubernetes might read; no control characters, which are refused.
WORD = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]) | st.sampled_from("'\"$`\\ !*?~#&|;<>(){}[]"),
    max_size=20,
)


@pytest.mark.parametrize("name", sorted(files()))
def test_files_are_the_golden_ones_and_pass_their_checks(name):
    text = files()[name]
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
    assert (check_manifest if name.endswith(".yaml") else check_shell)(text)


def run_script(
    script: str, folder: Path, codes: list[int], **environ: str
) -> tuple[int, list[str]]:
    """The exit code of a script and what it called; the launcher's command ends with `codes`, one after the other."""
    folder.mkdir(exist_ok=True)
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    launcher = '#!/bin/bash\n{ echo "${0##*/}"; printf "%s\\0" "$@"; } >> "$LOG"\n'
    ends = 'code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code"\n'
    for name, rest in dict(srun=ends, gcloud=ends, scontrol="", sleep="").items():
        (folder / name).write_text(launcher + rest)
        (folder / name).chmod(0o755)
    environ |= {"LOG": str(folder / "log"), "CODES": str(folder / "codes"), "SLURM_JOB_ID": "7"}
    environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    (folder / "log").unlink(missing_ok=True)
    code = subprocess.run(["bash", "-c", script], env=environ, stdout=subprocess.DEVNULL).returncode
    return code, (folder / "log").read_text().replace("\0", "\n").splitlines()


@pytest.mark.parametrize(
    "code, count, again",
    [(0, 0, False), (1, 0, False), (2, 0, False), (42, 0, True), (42, 2, True), (42, 3, False),
     (130, 0, False), (137, 0, True), (127, 0, False)],
)  # fmt: skip
def test_slurm_puts_a_job_in_the_queue_again_when_its_exit_code_asks(tmp_path, code, count, again):
    script = slurm.script(job(restarts=3))
    ended, log = run_script(script, tmp_path, [code], SLURM_RESTART_COUNT=str(count))
    assert ended == code
    assert ("requeue" in log) == again and log[0] == "srun"
    assert again == (code in RESTARTED and count < 3)


@pytest.mark.parametrize(
    "codes, calls", [([0], 1), ([2], 1), ([130], 1), ([42, 255, 0], 3), ([42, 42, 42], 3)]
)
def test_a_tpu_vm_starts_again_when_the_exit_code_asks(tmp_path, codes, calls):
    ended, log = run_script(tpu_vm.script(job(chip="v5p", restarts=2)), tmp_path, codes)
    assert ended == codes[-1] and log.count("gcloud") == calls


def expanded(text: str) -> str:
    """What Kubernetes makes of a word of a command: $$ is $, $(NAME) a variable."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda match: "$" if match[0] == "$$" else f"<{match[1]}>", text
    )


@settings(max_examples=25, deadline=None)
@given(WORD, WORD, WORD)
@example("$(HOME) $$x", "'$(date)' `date` $HOME", "~/a b")
def test_words_arrive_as_they_were_given(tmp_path_factory, folder, value, project):
    workdir, words = f"/shared/{folder}", (f"--config.data.name={value}",)
    given_job = job(workdir=workdir, words=words, chip="v5p", project=project)
    expected = given_job.arguments()
    assert expected[-2:] == [f"--workdir={workdir}", *words]
    # TPU VM: two shells, the one here and that of the machine.
    line = next(x for x in tpu_vm.script(given_job).split("\n") if "gcloud" in x)
    command = shlex.split(line)[-1].removeprefix("--command=")
    assert shlex.split(command)[-len(expected) :] == expected
    assert shlex.split(command)[:3] == ["cd", "--", project or "bvjax"]
    # JobSet: no shell; Kubernetes reads $$ as $.
    text = jobset.text(job(workdir=workdir, words=words, image="i"), Place("a", **DISK))
    check_manifest(text)
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert [expanded(word) for word in container["command"]] == expected
    # SLURM: run by bash.
    script = slurm.script(job(workdir=workdir, words=words))
    code, log = run_script(script, tmp_path_factory.getbasetemp() / "quoting", [0])
    assert code == 0
    assert "\n".join(log).endswith("\n".join(expected))


def test_gs_folders_are_passed_on_unchanged():
    for text in (
        slurm.script(job(workdir="gs://b/run")),
        slurm.script(job(workdir="gs://b/run", image="i")),
        tpu_vm.script(job(workdir="gs://b/run", chip="v5p")),
        jobset.text(job(workdir="gs://b/run", image="i"), Place("a")),
    ):
        assert "--workdir=gs://b/run" in text and "container-mounts" not in text


@pytest.mark.parametrize("index", [0, 1])
def test_a_container_of_gpus_finds_the_others(index):
    [workers] = jobset.manifest(job(image="i"), Place("a", **DISK))["spec"]["replicatedJobs"]
    [container] = workers["template"]["spec"]["template"]["spec"]["containers"]
    environ = {e["name"]: e.get("value", str(index)) for e in container["env"]}
    cluster = find(Options(), environ, tpu=False)
    assert cluster.coordinator == "dit-workers-0-0.dit:6002"
    assert (cluster.num_processes, cluster.process_id) == (2, index)
    assert cluster.coordinator.rpartition(":")[2] in {
        str(port["containerPort"]) for port in container["ports"]
    }


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(name="Dit"), "small letters"), (dict(name="a" * 41), "small letters"),
        (dict(chip="h1000"), "it can be v5p"), (dict(hosts=0), "`hosts` is 0"),
        (dict(devices_per_host=0), "1 or more"), (dict(restarts=-1), "0 or more"),
        (dict(grace_seconds=5), "30 or more"), (dict(workdir="runs"), "from / of a disk"),
        (dict(workdir="gs://b"), "gs://BUCKET/FOLDER"), (dict(workdir="s3://b/r"), "from / of a disk"),
        (dict(workdir="/a\n#SBATCH --nodes=9"), "control character"), (dict(words=("train",)), "no option"),
        (dict(words=("--workdir=/b",)), "said by the launcher"), (dict(config=""), "must name a file"),
        (dict(words=("--process_id=1",)), "said by the launcher"), (dict(python="-c"), "must name a file"),
        (dict(workdir="/\ud800"), "not Unicode"),
    ],
)  # fmt: skip
def test_jobs_that_nothing_can_start_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        job(**changes)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: slurm.script(job(chip="v5p")), "started by jobset or tpu-vm"),
        (lambda: slurm.script(job(), time="1 day"), "`time` is"),
        (lambda: slurm.script(job(), partition="a\n"), "`partition` is"),
        (lambda: slurm.script(job(image="i", workdir="/a:b")), "pyxis cannot mount"),
        (lambda: tpu_vm.script(job()), "GPUs are started by"),
        (lambda: tpu_vm.script(job(chip="v5p", image="i")), "`image` is for"),
        (lambda: tpu_vm.script(job(chip="v5p"), zone="a b"), "`zone` is"),
        (lambda: jobset.manifest(job(), Place("a", **DISK)), "`image` is missing"),
        (lambda: jobset.manifest(job(image="i"), Place(**DISK)), "`accelerator` is missing"),
        (lambda: jobset.manifest(job(image="i", chip="v5p"), Place("a", **DISK)), "`topology` is missing"),
        (lambda: jobset.manifest(job(image="i"), Place("a", slices=2, **DISK)), "are of TPUs"),
        (lambda: jobset.manifest(job(image="i", chip="v5p", hosts=3), TPU), "divide the 3 hosts"),
        (lambda: jobset.manifest(job(image="i"), Place("a", volume_claim="b")), "belong together"),
        (lambda: jobset.manifest(job(image="i"), Place("a")), "below `mount`"),
        (lambda: jobset.manifest(job(image="i", workdir="/shared/../b"), Place("a", **DISK)), "below `mount`"),
    ],
)  # fmt: skip
def test_what_a_launcher_cannot_do_is_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_flags_of_a_generation_are_not_those_of_another():
    for chip, flags in FLAGS.items():
        assert flags.source
        assert ("LIBTPU_INIT_ARGS" in flags.environment) == (chip in ("v5p", "v6e"))
        assert all("\n" not in value for value in flags.environment.values())
    # What the sources warn of: SparseCore offload on v5p (hangs) and v6e, one connection on Blackwell (slower).
    assert "sparse" not in str(FLAGS["v5p"]) + str(FLAGS["v6e"].environment)
    assert "CUDA_DEVICE_MAX_CONNECTIONS" in FLAGS["h100"].environment
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in FLAGS["b200"].environment
    assert "scoped_vmem_limit_kib=65472" in FLAGS["v5p"].environment["LIBTPU_INIT_ARGS"]
    assert "scoped_vmem_limit_kib=98304" in FLAGS["v6e"].environment["LIBTPU_INIT_ARGS"]
