"""The DiT of `mini` by Block Forcing on encoded stories.

Second of two stages, see `mini_dit_frames.py`.  Encode the stories first, with the VAE and the text encoder:

python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=900
python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=16 --split=heldout
"""

from __future__ import annotations

from ml_collections import ConfigDict

from bvjax.losses.history import shares


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            task="dit",
            preset="mini",
            overrides=(  # of the model
                "dit.products=bfloat16",
                "dit.similarity_keys=True",
                "dit.place_embedding=True",
                "dit.qk_init=2",
            ),
            weights_dtype="float16",
            train=dict(
                steps=1500,
                global_batch_size=1,  # stories: 15 clean and 15 * targets_per_chunk noisy chunks each, and images
                device_batch_size=1,
                mesh="",  # like data=4,fsdp=2; "" = one device
                seed=0,
                ema_decay=0.995,
                log_every=20,
                sample_every=150,
                checkpoint_every=100,
                keep=2,
            ),
            optimizer=dict(
                kind="muon",
                lr=2e-3,
                schedule="cosine",
                warmup_steps=30,
                final_factor=0.05,
                b1=0.9,
                b2=0.99,
                weight_decay=1e-4,
                clip=1.0,
            ),
            data=dict(
                weights="runs/mini",  # with the VAE and the text encoder
                name="storyworld",  # of `experiments.data_sets.DATA_SETS`
                latents="data/latents",
                extras=(
                    "relevance",
                    "standalone",
                ),  # what examples have beside latents and captions
                split="train",
                stories=0,  # 0 = all that are encoded
                heldout_split="heldout",
                heldout_stories=8,  # whose loss is measured every `sample_every` updates
                sample_stories=2,  # of them, drawn as strips
                sample_chunks=5,
                seed=0,
            ),
            forcing=dict(
                targets_per_chunk=2,
                revisit_fraction=0.7,
                anchor_weight=0.15,
                frames=20,
                frames_weight=0.5,
                standalone=0.5,
            ),
            block=dict(target="blend", gamma=0.1),  # see `BlockForcingConfig`
            history=shares()  # of rules that are not named here
            | dict(  # see `HistoryConfig`
                semantic=0.5,
                rolling=0.1,
                oracle=0.15,
                random=0.1,
                none=0.15,
                anchor_drop=0.15,
                caption_drop=0.1,
                noise_chance=0.5,
                noise_max=0.05,
            ),
            levels=dict(
                schedule="cosine", role="median_shift", mix=0.8, shift=4.0, weighting="even"
            ),
        )
    )
