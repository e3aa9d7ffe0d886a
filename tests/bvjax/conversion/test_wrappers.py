"""Names are the same whatever wrapped the model, wherever and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.conversion import dit_names, formats, text_names, vae_names
from bvjax.conversion.sources import is_known
from bvjax.conversion.wrappers import WRAPPERS, unwrap, unwrap_all
from bvjax.errors import UserError
from bvjax.presets import get_preset

NAMES = {
    part: {
        format_name: [
            s.external_name for s in formats.specs(get_preset("skyreels-1.3b"), part, format_name)
        ]
        for format_name in names.FORMATS
    }
    for part, names in (("dit", dit_names), ("vae", vae_names), ("text", text_names))
}
ALL = [names for of_part in NAMES.values() for names in of_part.values()]


@pytest.mark.parametrize("names", ALL)
def test_no_format_has_a_word_of_wrappers(names):
    assert [unwrap(name) for name in names] == names
    assert is_known(names)


@given(st.data())
def test_wrappers_anywhere(data):
    names = data.draw(st.sampled_from(ALL))
    words = st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=3)
    # each module of the tree is wrapped in its own way, with all that is inside it
    around: dict[str, str] = {}

    def wrap(name: str) -> str:
        whole, output = "", []
        *modules, tensor = name.split(".")
        for module in ["", *modules]:
            whole = f"{whole}.{module}"
            if whole not in around:
                around[whole] = data.draw(words) if len(around) < 6 else []
            output += [module, *around[whole]]
        return ".".join([*output[1:], tensor])

    some = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=20, unique=True))
    wrapped = {name: wrap(name) for name in some}
    assert unwrap_all(wrapped.values(), Path("x")) == wrapped


def test_two_names_that_become_one():
    names = ["module.head.head.bias", "head._orig_mod.head.bias"]
    with pytest.raises(
        UserError, match="x holds head.head.bias twice: as module.* and as head._orig"
    ):
        unwrap_all(names, Path("x"))
