"""First of three stages of the DiT's training: single latents, as images, from captions that describe them.

What a word looks like is learnt from images: one costs a fifth of a chunk, and the latents of a chunk look much
alike.  Then chunks, first without history (with it to copy from, a caption's words hardly matter), then with it:

python -m experiments.train --config=experiments/configs/mini_dit_frames.py --workdir=runs/dit_frames \\
    --weights=runs/mini
python -m experiments.train --config=experiments/configs/mini_dit_alone.py --workdir=runs/dit_alone \\
    --weights=runs/mini --init-from=runs/mini
python -m experiments.train --config=experiments/configs/mini_dit.py --workdir=runs/dit \\
    --weights=runs/mini --init-from=runs/mini
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs import mini_dit


def get_config() -> ConfigDict:
    config = mini_dit.get_config()
    config.train.update(steps=2000, sample_every=500, global_batch_size=4, device_batch_size=4)
    config.optimizer.update(lr=3e-3, schedule="cosine", final_factor=0.3)
    config.forcing.update(rounds=0, frames=60, described=0.7)
    return config
