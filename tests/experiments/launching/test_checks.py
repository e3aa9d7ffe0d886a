"""The checks of launchers' files, each broken on purpose, and the command itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bvjax.errors import UserError
from experiments.launching.checks import check_config, check_fields, check_manifest, check_shell

ROOT = Path(__file__).parents[3]
MANIFEST = (Path(__file__).parent / "golden" / "jobset_gpu.yaml").read_text(encoding="utf-8")
JOB = ("spec", "replicatedJobs", 0, "template", "spec")
POD = (*JOB, "template", "spec")


@pytest.mark.parametrize("script", ["if true; then\n", 'echo "a\n', "for x in; do"])
def test_scripts_that_bash_cannot_parse_are_refused(script):
    with pytest.raises(UserError, match="bash -n objects"):
        check_shell(script)


def test_shellcheck_is_asked_where_it_is(tmp_path, monkeypatch):
    stand_in = tmp_path / "shellcheck"
    stand_in.write_text('#!/bin/bash\ngrep -q bad && { echo "SC1 bad"; exit 1; }\nexit 0\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert check_shell("echo good\n") == ["bash -n", "shellcheck"]
    with pytest.raises(UserError, match="shellcheck objects to the script: SC1 bad"):
        check_shell("echo bad\n")
    monkeypatch.setattr("shutil.which", lambda name: None if name == "shellcheck" else name)
    assert check_shell("echo bad\n") == ["bash -n"]


@pytest.mark.parametrize(
    "path, value, sentence",
    [
        (("apiVersion",), "jobset.x-k8s.io/v1", "it can be 'jobset.x-k8s.io/v1alpha2'"),
        (("kind",), None, "lacks kind"),
        (("metadata", "name"), "Dit", "must match"),
        (("spec", "restarts"), 3, "no field restarts"),
        (("spec", "failurePolicy", "maxRestarts"), -1, "must be 0 to"),
        (("spec", "failurePolicy", "maxRestarts"), True, "type integer"),
        (("spec", "failurePolicy", "rules", 0, "action"), "Fail", "it can be 'FailJobSet'"),
        (("spec", "failurePolicy", "rules", 0, "onJobFailureReasons"), ["Exit"], "it can be"),
        (("spec", "replicatedJobs"), [], "has 0 items"),
        ((*JOB, "podFailurePolicy", "rules", 0, "onExitCodes", "operator"), "Not", "it can be 'In'"),
        ((*JOB, "podFailurePolicy", "rules", 0, "onExitCodes", "values"), [256], "must be 0 to 255"),
        ((*POD, "restartPolicy"), "Always", "it can be 'Never'"),
        ((*POD, "terminationGracePeriodSeconds"), "600", "type integer"),
        ((*POD, "nodeSelector", "a"), "b c", "must match"),
        ((*POD, "nodeSelector", "a"), "b" * 64, "at most 63"),
        ((*POD, "containers", 0, "ports", 0, "containerPort"), 70000, "must be 1 to 65535"),
        ((*POD, "containers", 0, "resources", "limits", "nvidia.com/gpu"), "many", "must match"),
        ((*POD, "containers", 0, "image"), "", "must match"),
        ((*POD, "containers", 0, "env", 0, "value"), 1, "type string"),
        ((*POD, "containers", 0, "volumeMounts", 0, "mountpath"), "/a", "no field mountpath"),
    ],
)  # fmt: skip
def test_manifests_with_one_wrong_field_are_refused(path, value, sentence):
    content = yaml.safe_load(MANIFEST)
    check_manifest(yaml.safe_dump(content))
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(UserError, match=sentence):
        check_manifest(yaml.safe_dump(content))


def test_what_is_no_manifest_is_refused():
    with pytest.raises(UserError, match="not YAML"):
        check_manifest("a: [")
    with pytest.raises(UserError, match="type object"):
        check_manifest("text")
    with pytest.raises(ValueError, match="oneOf"):
        check_fields(1, {"oneOf": []}, "it")


def launch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = f"--config={ROOT}/experiments/configs/mini_dit.py"
    command = [sys.executable, "-m", "experiments.launch", config, "--hosts=2", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )


def test_the_command_writes_checks_and_says_how_to_submit(tmp_path):
    words = ("--target=slurm", "--chip=h100", f"--out={tmp_path}/my files", "--name=dit")
    done = launch(tmp_path, *words, "--workdir=/shared/r", "--", "--config.train.steps=5")
    assert done.returncode == 0 and "checked by bash -n" in done.stderr, done.stderr
    assert done.stdout == f"sbatch '{tmp_path}/my files/dit.sbatch'\n"
    written = (tmp_path / "my files" / "dit.sbatch").read_text()
    assert "#SBATCH --nodes=2\n" in written
    assert "--workdir=/shared/r --config.train.steps=5\n" in written


def test_a_dry_run_writes_nothing_and_warns_of_object_stores(tmp_path):
    words = ("--target=tpu-vm", "--chip=v5p", "--dry-run", f"--out={tmp_path}/out")
    shown = launch(tmp_path, *words, "--workdir=gs://b/r")
    assert shown.returncode == 0 and "does not write to object stores yet" in shown.stderr
    assert "--workdir=gs://b/r" in shown.stdout and not (tmp_path / "out").exists()


def test_the_command_refuses_in_a_sentence(tmp_path):
    refused = launch(tmp_path, "--target=slurm", "--chip=h100", "--workdir=runs")
    assert refused.returncode == 2 and refused.stderr.startswith("error: --workdir is 'runs'")


def test_configs_that_are_not_here_are_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    check_config("experiments/configs/mini_dit.py")
    check_config("/bvjax/elsewhere.py")
    with pytest.raises(UserError, match="no file here"):
        check_config("no/such.py")
