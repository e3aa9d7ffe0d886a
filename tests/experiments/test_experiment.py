"""An experiment on the command line and back: every kind of value, what is refused, keys of earlier versions."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from bvjax.errors import UserError
from bvjax.losses.history import HistoryConfig
from bvjax.memory import rules
from bvjax.memory.rules import Rule
from bvjax.overrides import defaults, from_dict, to_dict
from bvjax.presets import get_preset
from experiments.configs import mini_dit, mini_vae, mini_vae_next
from experiments.experiment import Experiment, as_config, check_words, experiment_of
from experiments.old_configs import up_to_date, words_of_now

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


def command(monkeypatch, name: str, *words: str) -> Experiment:
    """Returns the experiment that `python -m experiments.train --config=NAME WORDS` trains."""
    words, _ = words_of_now([f"--config={CONFIGS / name}.py", *words])
    check_words(words)
    monkeypatch.setattr(sys, "argv", ["train", *words])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values, lock_config=True)
    values(sys.argv)
    return experiment_of(values.config)


def test_any_field_is_set_from_the_command_line(monkeypatch):
    base = mini_dit.experiment()
    assert command(monkeypatch, "mini_dit") == base
    changed = command(
        monkeypatch, "mini_dit", "--config.train.steps=10", "--config.optimizer.lr=1",
        "--config.model.dit.qk_init=3", "--config.model.dit.spatial_position_embedding=false",
        "--config.model.vae.latent_scale=()",
        "--config.data.extras=('relevance',)", "--config.model.guidance.negative=grey, blurred",
        "--config.history.semantic=0.25", "--config.block.target=fm", "--config.forcing.frames=4",
    )  # fmt: skip
    model = dataclasses.replace(
        base.model,
        dit=dataclasses.replace(base.model.dit, qk_init=3.0, spatial_position_embedding=False),
        guidance=dataclasses.replace(base.model.guidance, negative="grey, blurred"),
    )
    chances = {**base.history.chances, "semantic": 0.25}
    assert changed == dataclasses.replace(
        base,
        model=model,
        train=dataclasses.replace(base.train, steps=10),
        optimizer=dataclasses.replace(base.optimizer, lr=1.0),
        data=dataclasses.replace(base.data, extras=("relevance",)),
        history=dataclasses.replace(base.history, chances=chances),
        block=dataclasses.replace(base.block, target="fm"),
        forcing=dataclasses.replace(base.forcing, frames=4),
    )


def test_values_that_only_fit_together_change_together(monkeypatch):
    words = [f"--config.model.vae.{name}={(1.0,) * 4}" for name in ("latent_mean", "latent_std")]
    changed = command(monkeypatch, "mini_vae", *words, "--config.model.vae.z_dim=4")
    assert changed.model.vae.z_dim == 4 and changed.model.vae.latent_std == (1.0,) * 4
    with pytest.raises(UserError, match="vae.latent_mean has 32 values; vae.z_dim is 4"):
        command(monkeypatch, "mini_vae", "--config.model.vae.z_dim=4")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.model.vae.dimm=4", "key 'model.vae.dimm'; the nearest is 'model.vae.dim'"),
        ("--config.history.semantik=1", "'history.semantik'; the nearest is 'history.semantic'"),
        ("--config.vae.start=random", "vae"),  # of another task
        ("--config.train.steps=many", "many"),
        ("--config.train.steps=1.5", "1.5"),
        ("--config.model.vae.dim=0", "vae.dim is 0; it must be 1 to"),
        ("--config.optimizer.kind=sgd", "optimizer.kind is 'sgd'; it can be adamw or muon"),
        (
            "--config.model.vae.dim_mult=(1,'a')",
            "model.vae.dim_mult must be a whole number, not 'a'",
        ),
    ],
)
def test_what_is_wrong_is_refused(monkeypatch, word, message):
    errors = (UserError, flags.Error, AttributeError, KeyError, ValueError, TypeError)
    with pytest.raises(errors, match=f"(?s){message}"):
        command(monkeypatch, "mini_dit", word)


def test_a_rule_that_is_added_to_the_table_is_a_key(monkeypatch):
    row = dataclasses.replace(rules.RULES["semantic"], share=0.3)
    assert isinstance(row, Rule)
    monkeypatch.setitem(rules.RULES, "new", row)
    assert mini_dit.experiment().history.weights["new"] == 0.3
    changed = command(monkeypatch, "mini_dit", "--config.history.new=0.5")
    assert changed.history.weights["new"] == 0.5


def test_a_mapping_within_a_section_and_back():
    history = HistoryConfig(chances={"semantic": 2.0}, caption_drop=0.2)
    content = to_dict(history)
    assert content["semantic"] == 2.0 and content["rolling"] == 0.0 and "chances" not in content
    assert from_dict(HistoryConfig, content).weights == history.weights
    assert defaults(HistoryConfig)["semantic"] == 0.0  # of a config that does not know the rule
    assert defaults(HistoryConfig)["caption_drop"] == 0.1


def test_whole_numbers_of_a_config_stay_numbers():
    base = mini_vae.experiment()
    config = as_config(
        dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, lr=1))
    )
    config.optimizer.lr = 0.5  # of a key whose type is that of a whole number this would be refused
    assert experiment_of(config).optimizer.lr == 0.5


def test_words_of_earlier_versions(monkeypatch):
    next_ = [
        "vae.dim=96",
        "vae.stem_dim=32",
        "vae.tail_dim=32",
        "vae.z_dim=48",
        "dit.in_channels=48",
        "dit.out_channels=48",
        f"vae.latent_mean={(0.0,) * 48}",
        f"vae.latent_std={(1.0,) * 48}",
    ]
    changed = command(monkeypatch, "mini_vae", f"--config.overrides={tuple(next_)}")
    assert changed.model == mini_vae_next.experiment().model
    changed = command(
        monkeypatch, "mini_vae", "--config.preset", "wan-1.3b", "--config.overrides=vae.dim=8"
    )
    wan = get_preset("wan-1.3b")
    assert changed.model == dataclasses.replace(wan, vae=dataclasses.replace(wan.vae, dim=8))
    words, hints = words_of_now(["--config.forcing.rounds=1", "--config.preset=mini", "--x", "y"])
    assert words[:3] == ["--config.forcing.targets_per_chunk=1", "--x", "y"]
    assert hints[0] == "config.forcing.rounds is now called config.forcing.targets_per_chunk"
    assert len(hints) == 2 and all("\n" not in hint for hint in hints)
    assert words_of_now(["--config=x", "--config.train.steps=3"])[1] == []
    with pytest.raises(UserError, match="no preset 'maxi'"):
        words_of_now(["--config.preset=maxi"])
    with pytest.raises(UserError, match="overrides is 5; it must be a list"):
        words_of_now(["--config.overrides=5"])


def test_a_config_file_of_an_earlier_version(caplog):
    content = to_dict(mini_vae.experiment())
    del content["model"]
    old = content | {"preset": "mini", "overrides": ["vae.dim=8"]}
    experiment = experiment_of(old)
    assert experiment.model.vae.dim == 8 and "they are read for one more release" in caplog.text
    assert up_to_date(to_dict(experiment)) == to_dict(experiment)
    with pytest.raises(
        UserError, match="no configuration key 'vae.dimm'; the nearest is 'vae.dim'"
    ):
        experiment_of(content | {"preset": "mini", "overrides": ["vae.dimm=8"]})
