"""Second of three stages of the DiT's training (see `mini_dit_frames.py`): chunks without any history.

Nothing is encoded but the noisy chunks, so a step is twice as fast as with history.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs import mini_dit


def get_config() -> ConfigDict:
    config = mini_dit.get_config()
    config.train.update(steps=1500, sample_every=500, global_batch_size=2, device_batch_size=2)
    config.optimizer.update(lr=3e-3, schedule="cosine", final_factor=0.3)
    config.forcing.update(rounds=1, frames=0, described=0.7)
    config.history.update(semantic=0.0, rolling=0.0, oracle=0.0, random=0.0, none=1.0)
    return config
