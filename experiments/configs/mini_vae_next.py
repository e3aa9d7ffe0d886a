"""A wider VAE of `mini` with a stem and a tail, on clips of stories that are never seen twice.

The model card has its curve, and the rates that were too large.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs import mini_vae


def get_config() -> ConfigDict:
    config = mini_vae.get_config()
    # Not of the preset yet: its DiT knows other latents.
    config.overrides = ("vae.dim=96", "vae.stem_dim=32", "vae.tail_dim=32")
    config.train.update(
        steps=1000,
        global_batch_size=3,
        device_batch_size=3,
        ema_decay=0.98,
        log_every=10,
        sample_every=100,
        checkpoint_every=50,
    )
    config.optimizer.update(lr=4e-4, warmup_steps=30)
    config.data.update(cache_dir="", stories=0, crop=48, heldout_stories=64)
    config.vae.update(heldout_clips=12, stat_batches=6)
    return config
