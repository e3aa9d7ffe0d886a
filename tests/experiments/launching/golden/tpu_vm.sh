#!/usr/bin/env bash
# Flags of XLA: apple/axlearn, axlearn/common/compiler_options.py
set -uo pipefail
code=0
for attempt in $(seq 0 10); do
  echo "attempt $attempt"
  gcloud compute tpus tpu-vm ssh dit --zone=us-east5-a --project=team --worker=all --command='cd -- bvjax && exec env '"'"'LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_tpu_host_transfer_overlap_limit=24 --xla_tpu_enable_all_experimental_scheduler_features=true --xla_lhs_prioritize_async_depth_over_stall=ENABLED'"'"' python -m experiments.train --config=c.py --workdir=gs://bucket/run --config.train.mesh=data=2,fsdp=4'
  code=$?
  # 42: the state is saved, or a device hung. 255: ssh lost the machine. 130: a person stopped it.
  [ "$code" -eq 42 ] || { [ "$code" -ge 128 ] && [ "$code" -ne 130 ]; } || exit "$code"
  sleep 30
done
exit "$code"
