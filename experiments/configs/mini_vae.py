"""The VAE of `mini` on storyworld clips of 65 frames at 64x64.

Two CPU cores: see the model card for time and figures.  Render the stories first, or they are
rendered while training:

python -m data_pipelines.storyworld.cache --out=data/storyworld --stories=240

With --config.data.source=tfds the clips come from a dataset of array_record files instead:

python -m data_pipelines.storyworld.builder --out data/tfds --stories 240 --heldout 32
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            task="vae",
            preset="mini",
            overrides=(),  # of the model: ("vae.dim=8", ...)
            weights_dtype="float16",
            train=dict(
                steps=4000,
                global_batch_size=2,  # clips
                device_batch_size=2,
                mesh="",  # like data=4; "" = one device
                seed=0,
                ema_decay=0.998,
                log_every=50,
                sample_every=500,
                checkpoint_every=500,
                keep=2,
            ),
            optimizer=dict(
                kind="muon",
                lr=3e-3,
                schedule="cosine",
                warmup_steps=100,
                final_factor=0.02,
                b1=0.9,
                b2=0.99,
                weight_decay=1e-4,
                clip=1.0,
            ),
            data=dict(
                source="render",  # or "tfds"
                cache_dir="data/storyworld",  # of "render"; "" renders in process
                data_dir="data/tfds",  # of "tfds"
                split="train",
                stories=240,  # 0 = fresh ones without end, rendered in process
                heldout_split="heldout",
                heldout_stories=32,
                # 17 latents.  All but the first of a minute are coded in a steady state that a video reaches
                # only when no layer still feels the zeros before it: after training on 21 frames, PSNR falls
                # from 28 to 21 dB within the next 20.
                frames=65,
                crop=32,  # small crops: more updates in the same time; 0 = whole frames
                seed=0,
            ),
            vae=dict(
                start="linear",  # or "random"
                scale="pixels",  # or "unit", see `bvjax.train.latent_scale`
                trains="all",  # or "decoder" (with --init-from): encoded stories stay valid
                kl_weight=1e-4,
                edge_weight=0.5,
                mse_weight=4.0,
                heldout_clips=8,
                stat_batches=32,
            ),
        )
    )
