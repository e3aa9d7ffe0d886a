"""Old names of configuration keys are read, with a hint; what is new stays."""

import pytest

from bvjax.errors import UserError
from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.old_names import ADDED, RENAMED, up_to_date


def test_old_names_are_translated_and_told(caplog):
    old = {"task": "dit", "forcing": {"rounds": 3, "frames": 4}, "data": {"seed": 1}}
    new = up_to_date(old)
    assert new["forcing"] == {"targets_per_chunk": 3, "frames": 4}
    assert new["data"] == {"seed": 1, "name": "storyworld", "extras": ["relevance", "standalone"]}
    assert old["forcing"] == {"rounds": 3, "frames": 4}  # nothing is changed in place
    assert [r.getMessage() for r in caplog.records] == [
        "forcing.rounds is now called forcing.targets_per_chunk; its old name is read for one more release"
    ]
    assert up_to_date(new) == new and len(caplog.records) == 1
    up_to_date(old, warn=False)
    assert len(caplog.records) == 1


def test_keys_are_added_to_configs_that_have_none_of_them():
    mine = {"task": "dit", "data": {"name": "mine"}}
    assert up_to_date(mine) == mine
    for other in ({"task": "vae", "data": {}}, {"task": "dit"}, {"task": "dit", "data": 5}, {}):
        assert up_to_date(other) == other


def test_configs_from_before_x_cond_had_a_source_took_it_from_what_was_shown():
    for task in ("dit", "consistency", "ode", "self_forcing"):
        old = {"task": task, "block": {"gamma": 0.1}}
        assert up_to_date(old)["block"] == {"gamma": 0.1, "cond_source": "shown"}
    new = {"task": "dit", "block": {"gamma": 0.1, "cond_source": "semantic"}}
    assert up_to_date(new) == new
    assert BlockForcingConfig().cond_source == "semantic"


def test_a_key_by_both_names_is_refused():
    both = {"forcing": {"returns": 0.1, "revisit_fraction": 0.2}}
    with pytest.raises(UserError, match="give forcing.revisit_fraction alone"):
        up_to_date(both)


def test_the_new_names_are_there():
    for old, new in RENAMED.items():
        section, key = new.split(".")
        assert section == "forcing" and key in ForcingConfig.__dataclass_fields__, old
        assert new not in RENAMED
    assert not {key for groups in ADDED.values() for keys in groups for key in keys} & set(RENAMED)
