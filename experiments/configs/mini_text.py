"""The text encoder of `mini`: umT5's architecture, small, trained on storyworld captions, then frozen.

The tokenizer is learned first, from the captions of `tokenizer_stories` stories, into `tokenizer_dir`.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            task="text",
            preset="mini",
            overrides=(),
            weights_dtype="float16",
            train=dict(
                steps=1500,
                global_batch_size=4,  # stories of 15 captions
                device_batch_size=4,
                mesh="",  # like data=4; "" = one device
                seed=0,
                ema_decay=0.99,
                log_every=25,
                sample_every=250,
                checkpoint_every=250,
                keep=2,
            ),
            optimizer=dict(
                kind="adamw",
                lr=2e-3,
                schedule="cosine",
                warmup_steps=50,
                final_factor=0.02,
                b1=0.9,
                b2=0.98,
                weight_decay=0.01,
                clip=1.0,
            ),
            data=dict(
                tokenizer_dir="data/text",
                tokenizer_stories=1000,
                split="train",
                heldout_split="heldout",
                heldout_stories=16,
            ),
            text=dict(  # see `TextPretrainConfig`
                mlm_weight=1.0,
                label_weight=1.0,
                similarity_weight=20.0,
            ),
        )
    )
