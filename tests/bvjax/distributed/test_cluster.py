"""Processes of a run as the environment of each launcher tells of them."""

from __future__ import annotations

import pytest
from jax._src.clusters import ClusterEnv

from bvjax.distributed.cluster import Cluster, Options, find, first_host
from bvjax.errors import UserError

# As srun sets them for `srun -N2 --ntasks-per-node=4`, of the 6th task.
SLURM = {
    "SLURM_JOB_ID": "8200",
    "SLURM_STEP_NODELIST": "gpu[007,009-011]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_a_process_alone_is_no_cluster():
    assert find(Options(), {}, tpu=False) is None
    assert find(Options("localhost:1", 1, 0), SLURM, tpu=False) is None
    assert find(Options(), {**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, tpu=False) is None
    # A shell of salloc, or the batch script itself: there is a job, but no step with other tasks.
    shell = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    assert find(Options(), shell, tpu=False) is None


def test_the_command_line_wins():
    found = find(Options("a.b:99", 3, 2), SLURM, tpu=False)
    assert found == Cluster("the command line", "a.b:99", 3, 2)
    assert found.arguments() == dict(
        coordinator_address="a.b:99",
        num_processes=3,
        process_id=2,
        cluster_detection_method="deactivate",
    )


def test_variables_of_jax():
    env = {
        "JAX_COORDINATOR_ADDRESS": "run-0-0.run:6002",
        "JAX_NUM_PROCESSES": "16",
        "JAX_PROCESS_ID": "0",
    }
    assert find(Options(), env | SLURM, tpu=False).coordinator == "run-0-0.run:6002"


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, None),  # no GPUs
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (2, 3)),  # all tasks see all of them
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "2"}, None),  # one of its own
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_GPUS_PER_TASK": "8"}, None),
        (
            {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "1(x8)"},
            None,  # one task a machine has all that are there
        ),
        ({"SLURM_GPUS_ON_NODE": "8"}, (2, 3)),
    ],
)
def test_slurm_with_one_or_several_devices_a_process(changes, devices):
    found = find(Options(), SLURM | changes, tpu=False)
    assert found == Cluster("SLURM", f"gpu007:{61440 + 8200 % 4096}", 8, 5, devices)


def test_jax_does_not_choose_devices_where_all_are_meant(monkeypatch):
    env = SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "1(x8)"}
    monkeypatch.setattr("os.environ", env)
    # Without this word JAX gives a task of SLURM the device of its local number.
    chosen = ClusterEnv.auto_detect_unset_distributed_params("gpu007:1", 8, 5, None, None, 300)
    assert chosen[3] == [1]
    arguments = find(Options(), env, tpu=False).arguments()
    assert arguments["cluster_detection_method"] == "deactivate"
    assert "local_device_ids" not in arguments
    # A TPU's processes are found by JAX.
    tpu = find(Options(), {"TPU_WORKER_HOSTNAMES": "a,b"}, tpu=True)
    assert tpu.arguments() == {}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[01-15],m2", "n01"), ("a-b[007,9]", "a-b007")],
)
def test_the_first_of_slurms_nodes(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("contact", "coordinator"),
    [
        (
            {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"},
            f"10.96.0.1:{61440 + 1531576320 // 4096 % 4096}",
        ),
        (
            {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370"},
            f"[fe80::b9b]:{61440 + 1314521088 // 4096 % 4096}",
        ),
        ({"PMIX_NAMESPACE": "prterun-node-01-4242@1"}, f"node-01:{61440 + 4242 % 4096}"),
    ],
)
def test_open_mpi(contact, coordinator):
    found = find(Options(), OPEN_MPI | contact | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, tpu=False)
    assert found == Cluster("Open MPI", coordinator, 4, 3, (2, 3))


@pytest.mark.parametrize(
    ("env", "where"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, "TPU_WORKER_HOSTNAMES"),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "TPU_WORKER_HOSTNAMES"),
        ({}, "the metadata of the TPU VM"),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"JAX_PLATFORMS": "cpu", "TPU_WORKER_HOSTNAMES": "a,b"}, None),
    ],
)
def test_tpu_machines_are_found_by_jax(env, where):
    found = find(Options(), env, tpu=True)
    assert found == (where and Cluster(where))
    assert found is None or found.arguments() == {}


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (Options("h:1"), {}, "belong together: `num_processes`, `process_id` is missing"),
        (Options("h", 2, 0), {}, "`coordinator` is 'h'; it must be HOST:PORT"),
        (Options("h:1", 2, 2), {}, "`process_id` is 2 of `num_processes` 2; it must be 0 to 1"),
        (Options(), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two' in the environment"),
        (Options(), {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS"),
        (Options(), SLURM | {"SLURM_GPUS_ON_NODE": "6"}, "4 processes cannot share 6 GPUs"),
        (Options(), OPEN_MPI, "mpirun does not say where it runs"),
    ],
)
def test_what_does_not_belong_together_is_refused(options, env, message):
    with pytest.raises(UserError, match=message):
        find(options, env, tpu=False)
