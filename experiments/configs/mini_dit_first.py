"""The first third of the DiT's training: every chunk alone from its caption, without any history.

With history to copy from, a caption's words hardly matter to the loss, and what they look like is learnt last.
Without, nothing is encoded but the noisy chunks, so a step is also twice as fast.  Then go on with history:

python -m experiments.train --config=experiments/configs/mini_dit_first.py --workdir=runs/dit_first --weights=runs/mini
python -m experiments.train --config=experiments/configs/mini_dit.py --workdir=runs/dit --weights=runs/mini \
    --init-from=runs/mini
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs import mini_dit


def get_config() -> ConfigDict:
    config = mini_dit.get_config()
    config.train.update(steps=1500, sample_every=500, global_batch_size=2, device_batch_size=2)
    config.optimizer.update(lr=2e-3, schedule="cosine", final_factor=0.1)
    config.forcing.update(rounds=1)
    config.history.update(semantic=0.0, rolling=0.0, oracle=0.0, random=0.0, none=1.0)
    return config
