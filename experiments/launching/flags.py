"""Flags of XLA, one set for each generation of chips: a set for one generation hangs another.

Each set is a published one for models of this kind, and names its source. None was measured with this project. All are
known to the versions in requirements-aot.txt (an unknown flag ends libtpu and XLA at the start).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Flags:
    """Variables of the environment, and where they were published."""

    source: str
    environment: dict[str, str]


def _libtpu(*flags: str) -> dict[str, str]:
    # One line: libtpu stops reading at a line's end.
    return {"LIBTPU_INIT_ARGS": " ".join(f"--{flag}" for flag in flags)}


_GPU = {
    "JAX_OPTIMIZATION_LEVEL": "O1",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    "NCCL_NVLS_ENABLE": "1",
}
_COMBINE = (
    "--xla_gpu_all_reduce_combine_threshold_bytes=1073741824 "
    "--xla_gpu_all_gather_combine_threshold_bytes=1073741824 "
    "--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728"
)
_TOOLBOX = "NVIDIA/JAX-Toolbox, docs/GPU_performance.md; thresholds of combining: MaxText's"
_HOPPER = Flags(_TOOLBOX, _GPU | {"XLA_FLAGS": _COMBINE, "CUDA_DEVICE_MAX_CONNECTIONS": "1"})

FLAGS: dict[str, Flags] = {
    # The source says that the set for Ironwood (SparseCore) hangs on v5p.
    "v5p": Flags(
        "AI-Hypercomputer/tpu-recipes, training/v5p/wan2.1-14b/bf16-v5p-16/cluster_toolkit/run_recipe.sh",
        _libtpu(
            "xla_tpu_scoped_vmem_limit_kib=65472",
            "xla_enable_async_all_gather=true",
            "xla_enable_async_all_reduce=true",
            "xla_tpu_enable_async_collective_fusion=true",
            "xla_tpu_enable_async_all_to_all=true",
            "xla_max_concurrent_async_all_gathers=4",
            "xla_latency_hiding_scheduler_rerun=5",
            "xla_enable_transpose_trace=false",
        ),
    ),
    "v5e": Flags("XLA's defaults: no set is published for such models", {}),
    "v6e": Flags(
        "apple/axlearn, axlearn/common/compiler_options.py",
        _libtpu(
            "xla_tpu_scoped_vmem_limit_kib=98304",
            "xla_tpu_enable_async_collective_fusion=true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
            "xla_tpu_overlap_compute_collective_tc=true",
            "xla_tpu_host_transfer_overlap_limit=24",
            "xla_tpu_enable_all_experimental_scheduler_features=true",
            "xla_lhs_prioritize_async_depth_over_stall=ENABLED",
        ),
    ),
    "h100": _HOPPER,
    "h200": _HOPPER,
    # Blackwell is slower with CUDA_DEVICE_MAX_CONNECTIONS=1, says the source.
    "b200": Flags(
        _TOOLBOX,
        _GPU | {"XLA_FLAGS": f"{_COMBINE} --xla_gpu_enable_command_buffer=FUSION,CUSTOM_CALL"},
    ),
}
