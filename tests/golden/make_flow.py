"""Makes metric_amt.npz and metric_raft.npz with the networks of the published evaluator, on a CPU:

    python -m tests.golden.make_flow LV_BENCH

LV_BENCH is Inferix's folder LV-Bench (commit a8cb31d).  It was run with torch 2.13.0, NumPy 2.4.6,
imageio 2.38.1 and easydict 1.14.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import types

import torch

from bvjax.files import npz_bytes, write_atomic
from tests.golden import flow_cases as cases


def published(checkout: pathlib.Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """AMT-S and RAFT with the recipe's weights; only RAFT's counters of batches are not given."""
    for name in ("vbench", "vbench.third_party"):  # their __init__ want what nothing here needs
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    amt = importlib.import_module("vbench.third_party.amt.networks.AMT-S").Model()
    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    raft = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False))
    torch_tensors = lambda net: {k: torch.from_numpy(v) for k, v in cases.tensors(net).items()}
    amt.load_state_dict(torch_tensors("amt_s"), strict=True)
    given = torch_tensors("raft_things")
    given |= {k.replace(".downsample.1.", ".norm3."): v for k, v in given.items()}
    lost = raft.load_state_dict(given, strict=False)
    assert not lost.unexpected_keys, lost
    assert all(name.endswith("num_batches_tracked") for name in lost.missing_keys), lost
    return amt.eval(), raft.eval()


@torch.no_grad()
def main(checkout: str) -> None:
    """Writes both files."""
    amt, raft = published(pathlib.Path(checkout))
    first, second = (
        torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in cases.frames()
    )
    result = lambda x: cases.kept(x[0].permute(1, 2, 0).numpy())
    middle = torch.tensor(0.5).view(1, 1, 1, 1)
    found = amt(first / 255.0, second / 255.0, middle, scale_factor=1.0, eval=False)
    print("AMT-S: flows of up to", found["flow0_pred"][0].abs().max().item(), "pixels")
    guess = found["imgt_pred"]
    print("of its pixels clipped:", ((guess == 0) | (guess == 1)).float().mean().item())
    write_atomic(cases.AMT_FILE, npz_bytes(guess=result(guess)))
    flows = {}
    for count in cases.ITERATIONS:
        _, flow = raft(first, second, iters=count, test_mode=True)
        print(f"RAFT, {count} updates:", flow.mean((0, 2, 3)), "+-", flow.std((0, 2, 3)))
        flows[f"flow{count}"] = result(flow)
    write_atomic(cases.RAFT_FILE, npz_bytes(**flows))


if __name__ == "__main__":
    main(*sys.argv[1:])
