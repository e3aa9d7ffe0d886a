"""Makes published.json with the published LV-Bench evaluator, on a CPU, as it is:

    python -m tests.golden.make_published LV_BENCH DINO CLIP PYIQA [FILE]

The arguments are checkouts: Inferix's folder LV-Bench (commit a8cb31d), facebookresearch/dino
(7c446df), openai/CLIP, and IQA-PyTorch (0.1.16).  It was run with torch 2.13.0, torchvision 0.28.0,
NumPy 2.4.6, OpenCV 5.0.0, decord 0.6.0, omegaconf 2.4.0, easydict 1.14, imageio 2.38.1, timm 1.0.31
and PyAV 18.1.0.  Nothing of theirs is changed on disk: the devices that they name are renamed to
the CPU, and where they look for weights they find those of `published_cases`.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
import tempfile
import types

import numpy as np
import torch

from bvjax.lvbench import weights
from bvjax.lvbench.video import blocks, probe
from tests.golden import published_cases as cases

_SHIM = torch.library.Library("torchvision", "DEF")  # so that wheels without their operators load
CLIP_SIZES = {  # embedding, image, layers, width, patch
    "clip_vit_b32": (512, 224, 12, 768, 32),
    "clip_vit_l14": (768, 224, 24, 1024, 14),
}


def prepare(lv_bench: str, dino: str, clip: str, pyiqa: str) -> None:
    """Puts the checkouts where imports and the evaluator look, in the current folder."""
    for name in ("nms", "qnms"):
        _SHIM.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    sys.path[:0] = [lv_bench, clip, pyiqa]
    sys.modules["pyiqa.version"] = types.SimpleNamespace(__version__="checkout")
    here = pathlib.Path("pretrained")
    for folder in ("pyiqa_model", "amt_model", "raft_model/models", "aesthetic_model/emb_reader"):
        (here / folder).mkdir(parents=True)
    (here / "hub").mkdir()
    (here / "hub/facebookresearch-dino-7c446df").symlink_to(pathlib.Path(dino).resolve())
    config = pathlib.Path(lv_bench, "vbench/third_party/amt/cfgs/AMT-S.yaml")
    (here / "amt_model/AMT-S.yaml").write_text(config.read_text())


def on_the_cpu() -> None:
    """What is sent to "cuda" stays."""

    def renamed(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            kwargs = {k: "cpu" if v == "cuda" else v for k, v in kwargs.items()}
            return function(
                *("cpu" if isinstance(a, str) and a == "cuda" else a for a in args), **kwargs
            )

        return call

    for owner, name in ((torch.Tensor, "to"), (torch.nn.Module, "to"), (torch, "tensor")):
        setattr(owner, name, renamed(getattr(owner, name)))


def tensors(net: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights for all that a model holds; its counters stay.

    Names and shapes are those that bvjax asks for, but for RAFT's second name of some norms, whose
    values under the first one are overwritten when a model loads both.
    """
    shapes = {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    ours = weights.FILES[net].shapes()
    assert {k: v for k, v in shapes.items() if ".norm3." not in k or k in ours} == ours, net
    drawn = {k: torch.from_numpy(v) for k, v in cases.weights(net, shapes).items()}
    return state | drawn


def place_weights() -> None:
    """Makes the files, and the functions that would fetch or cast others."""
    import clip
    import metrics
    from easydict import EasyDict
    from omegaconf import OmegaConf
    from pyiqa.archs.musiq_arch import MUSIQ
    from vbench.third_party.amt.utils.build_utils import build_from_cfg
    from vbench.third_party.RAFT.core.raft import RAFT

    here = pathlib.Path("pretrained")
    musiq = MUSIQ(pretrained=False).state_dict()
    torch.save(tensors("musiq_spaq", musiq), here / "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth")
    amt = build_from_cfg(OmegaConf.load(here / "amt_model/AMT-S.yaml").network)
    torch.save({"state_dict": tensors("amt_s", amt.state_dict())}, here / "amt_model/amt-s.pth")
    raft = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False))
    drawn = {f"module.{k}": v for k, v in tensors("raft_things", raft.state_dict()).items()}
    torch.save(drawn, here / "raft_model/models/raft-things.pth")
    head = tensors("laion_aesthetic", torch.nn.Linear(768, 1).state_dict())
    torch.save(head, here / "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth")

    def dino(url: str, **_):
        assert url.endswith("dino_vitbase16_pretrain.pth"), url
        import vision_transformer

        model = vision_transformer.vit_base(patch_size=16, num_classes=0)
        return tensors("dino_vitb16", model.state_dict())

    def load_clip(path: str, device: str):
        """clip.load in float32: the class of the published sizes, with a text tower of one."""
        net = {"ViT-B-32.pt": "clip_vit_b32", "ViT-L-14.pt": "clip_vit_l14"}[path.split("/")[-1]]
        model = clip.model.CLIP(*CLIP_SIZES[net], 1, 1, 64, 1, 1).eval()
        drawn = tensors(net, model.visual.state_dict(prefix="visual."))
        assert not model.load_state_dict(drawn, strict=False).unexpected_keys
        return model, None

    torch.hub.load_state_dict_from_url = dino
    clip.load = load_clip
    smoothness = metrics.MotionSmoothness
    metrics.MotionSmoothness = lambda config, ckpt, device: smoothness(config, ckpt, "cpu")


def segments(metric: str, path: str) -> dict:
    """m_1 .. m_N as the evaluator's VDE asks for them, and the VDE."""
    import metrics
    import vde

    scores, measure = [], metrics.create_metric_func(metric)

    def listening(chunk):
        scores.append(measure(chunk))
        return scores[-1]

    listening.__name__ = metric  # by which the evaluator chooses how to decode
    vde.metric_name = metric  # its branches for two of the metrics read a global of the script
    drift = vde.evaluate_video(path, cases.SEGMENTS, listening)
    assert drift is not None, metric
    return {"segments": [float(score) for score in scores], "vde": drift}


def whole(metric: str, path: str) -> dict:
    """The number of the whole clip, by VBench's functions, with the models of the evaluator."""
    import clip
    import metrics
    from vbench import (
        aesthetic_quality,
        background_consistency,
        dynamic_degree,
        imaging_quality,
        motion_smoothness,
        subject_consistency,
    )

    measure = metrics.create_metric_func(metric)
    cells = [cell.cell_contents for cell in measure.__closure__]
    inner = dict(zip(measure.__code__.co_freevars, cells, strict=True))  # its models by name
    more = {}
    with torch.no_grad():
        if metric == "subject":
            total, rows = subject_consistency.subject_consistency(
                inner["dino_model"], [path], "cpu", None
            )
        elif metric == "background":
            model, _ = clip.load("ViT-B-32.pt", "cpu")
            total, rows = background_consistency.background_consistency(
                model, None, [path], "cpu", False
            )
        elif metric == "motion":
            total, rows = motion_smoothness.motion_smoothness(inner["motion"], [path])
        elif metric == "aesthetic":
            total, rows = aesthetic_quality.laion_aesthetic(
                inner["aesthetic_model"], inner["clip_model"], [path], "cpu"
            )
        elif metric == "clarity":
            total, rows = imaging_quality.technical_quality(inner["model"], [path], "cpu")
        else:
            lengths, measure = [], inner["dynamic"].get_score
            inner["dynamic"].get_score = lambda *flow: lengths.append(measure(*flow)) or lengths[-1]
            total, rows = dynamic_degree.dynamic_degree(inner["dynamic"], [path])
            more = {"pairs": lengths}  # pixels; what each pair's flow is judged by
    return {"whole": float(rows[0]["video_results"]), "dimension": float(total)} | more


def decoded_alike(path: pathlib.Path) -> bool:
    """Whether the evaluator's two decoders and ours give the same frames."""
    from vbench.motion_smoothness import FrameProcess
    from vbench.utils import load_video

    ours = np.concatenate([block.frames for block in blocks(probe(path, path.parent))])
    decord = load_video(str(path)).permute(0, 2, 3, 1).numpy()
    return np.array_equal(ours, decord) and np.array_equal(ours, FrameProcess().get_frames(path))


def main(*checkouts: str, file: pathlib.Path = cases.FILE) -> None:
    """Writes the file, clip by clip and metric by metric."""
    checkouts = [str(pathlib.Path(path).resolve()) for path in checkouts]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare(*checkouts)
        on_the_cpu()
        place_weights()
        found = {}
        for clip in cases.CLIPS:
            path = cases.write(clip, pathlib.Path(folder))
            assert decoded_alike(path)
            found[clip.name] = {"sha256": cases.digest(cases.frames(clip)), "metrics": {}}
            for metric in clip.metrics:
                rows = segments(metric, str(path)) | whole(metric, str(path))
                found[clip.name]["metrics"][metric] = rows
                file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    destination = pathlib.Path(sys.argv[5]).resolve() if len(sys.argv) > 5 else cases.FILE
    main(*sys.argv[1:5], file=destination)
