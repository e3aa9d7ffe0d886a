"""Text states on disk: never other bits, and no encoder where nothing is new."""

from __future__ import annotations

import dataclasses
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import weights
from bvjax.errors import UserError
from bvjax.generate.conditions import CaptionStates, encode_captions
from bvjax.loading.bundle import load_bundle
from bvjax.loading.text_cache import TextCache
from bvjax.runs.captions import run_conditions
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.runs.redo import redo
from bvjax.story import Story
from bvjax.tokenizer import Tokenizer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache."""
    monkeypatch.setenv("BVJAX_TEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def loaded(monkeypatch):
    """The parts that are loaded, in order."""
    parts, plain = [], weights.load_weights

    def spy(folder, wanted=weights.PARTS, **options):
        parts.extend(wanted)
        return plain(folder, wanted, **options)

    monkeypatch.setattr(weights, "load_weights", spy)
    return parts


@pytest.fixture
def encoded(monkeypatch):
    """Token ids of the captions that go through the encoder."""
    from bvjax.generate import conditions

    rows, plain = [], conditions._encode

    def spy(params, config, ids, mask):
        rows.append(ids[0][mask[0]].tolist())
        return plain(params, config, ids, mask)

    monkeypatch.setattr(conditions, "_encode", spy)
    return rows


def conditions_of(run, bundle):
    conditions, new = run_conditions(run, bundle, run.captions)
    if new:
        run.save_conditions(conditions)
    return jax.tree.map(np.asarray, conditions)


def begin(bundle, captions, path, model=None):
    return create_run(bundle, model or bundle.model, Story(tuple(captions)), path)


def equal(a, b):
    """To the bit, the sign of zero too."""
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x.view(np.int32), y.view(np.int32)),
        *(jax.tree.map(np.asarray, tree) for tree in (a, b)),
    )


def entries(cache):
    return {path.name: path for path in cache.glob("*.safetensors")}


def test_a_second_run_never_loads_the_encoder(tiny, cache, loaded, encoded, tmp_path):
    bundle = load_bundle(tiny.weights)
    assert loaded == [] and bundle.text_cache(tiny.model.text).path("x").parent == cache
    with begin(bundle, tiny.captions, tmp_path / "first") as run:
        first = conditions_of(run, bundle)
    assert loaded == ["text"] and len(encoded) == 6 and len(entries(cache)) == 6
    again = load_bundle(tiny.weights)
    with begin(again, tiny.captions, tmp_path / "second") as run:
        second = conditions_of(run, again)
    assert loaded == ["text"] and len(encoded) == 6
    equal(second, first)
    tokenizer = Tokenizer(tiny.weights / "tokenizer.model")
    plain = encode_captions(lambda: tiny.params["text"], tiny.model.text, tokenizer, tiny.captions)
    equal(first, plain)
    assert first.text.shape == (5, 64, 16) and np.abs(first.null_text).max() > 0


def test_only_new_captions_are_encoded(tiny, cache, loaded, encoded, tmp_path):
    bundle = load_bundle(tiny.weights)
    with begin(bundle, tiny.captions[:2], tmp_path / "first") as run:
        first = conditions_of(run, bundle)
    new = "Ada waves in the morning."
    captions = (tiny.captions[1], new, new, f" {tiny.captions[0]} ")  # cleaned, the last is known
    with begin(bundle, captions, tmp_path / "second") as run:
        second = conditions_of(run, bundle)
    assert loaded == ["text", "text"] and len(encoded) == 4
    assert bundle.tokenizer.decode(encoded[3]) == new
    equal(second.text[[0, 3]], first.text[[1, 0]])
    equal(second.embedding[1], second.embedding[2])
    assert np.abs(second.text[1] - second.text[0]).max() > 0.01


@pytest.mark.slow
def test_the_encoder_is_gone_before_the_dit_is_loaded(tiny, cache, tmp_path, monkeypatch):
    bundle, plain, order, leaf = load_bundle(tiny.weights), weights.load_weights, [], []

    def spy(folder, wanted=weights.PARTS, **options):
        order.extend(wanted)
        if "text" not in wanted:
            assert leaf[0]() is None  # nothing refers to the encoder any more
        model, params = plain(folder, wanted, **options)
        if "text" in wanted:
            leaf.append(weakref.ref(params["text"]["blocks"]["ffn"]["fc1"]["kernel"]))
        return model, params

    monkeypatch.setattr(weights, "load_weights", spy)
    with begin(bundle, tiny.captions[:1], tmp_path / "run") as run:
        next(execute(run, bundle))
    assert order[0] == "text" and sorted(order[1:]) == ["dit", "vae"]


def test_redo_encodes_the_edited_caption_only(tiny, cache, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("BVJAX_TEXT_CACHE", "off")
    bundle = load_bundle(tiny.weights)
    with begin(bundle, tiny.captions, tmp_path / "run") as run:
        before = conditions_of(run, bundle)
        del encoded[:]
        again = redo(run, bundle, 2, {2: tiny.captions[3], 4: "Pip waves."})
    with again:
        after = conditions_of(again, bundle)
        assert again.load_conditions()[0] == again.captions
    assert [bundle.tokenizer.decode(ids) for ids in encoded] == ["Pip waves.", ""]
    equal(after.text[[0, 1, 2, 4]], before.text[[0, 3, 2, 4]])
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "shorter"])
def test_damaged_entries_are_made_again(tiny, cache, loaded, caplog, damage):
    bundle, config = load_bundle(tiny.weights), tiny.model.text

    def make():
        return encode_captions(
            lambda: bundle.load_text(config),
            config,
            bundle.tokenizer,
            tiny.captions[:2],
            cache=bundle.text_cache(config),
        )

    first = make()
    store = bundle.text_cache(config)
    path = store.path(tiny.captions[1])
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(b'{"a": 1}' * 20)
    else:  # a whole entry, but of another encoder
        TextCache.save(
            store,
            tiny.captions[1],
            CaptionStates(np.ones((3, 8), np.float32), np.ones(8, np.float32)),
        )
    with caplog.at_level("WARNING", "absl"):
        equal(make(), first)
    assert "is damaged" in caplog.text and str(path) in caplog.text
    assert loaded == ["text", "text"] and path.read_bytes() == content
    equal(make(), first)
    assert loaded == ["text", "text"]


@pytest.mark.slow
def test_what_decides_the_states_decides_the_name(tiny, cache, tmp_path):
    config, folder = tiny.model.text, tmp_path / "weights"
    shutil.copytree(tiny.weights, folder)

    def path(config=config, caption="Pip waves."):
        return load_bundle(folder).text_cache(config).path(caption)

    names = [path()]
    assert path() == path(caption=" Pip  waves.\n") == names[0]
    names.append(path(caption="Pip waves"))
    names.append(path(dataclasses.replace(config, dtype="bfloat16")))
    names.append(path(dataclasses.replace(config, max_length=63)))
    content = bytearray((folder / "text.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "text.safetensors").write_bytes(content)
    names.append(path())
    shutil.copy(folder / "tokenizer.model", tmp_path / "old.model")
    with open(folder / "tokenizer.model", "ab") as file:
        file.write(b"\xfa\x06\x00")  # an unknown field of the format: read over
    names.append(path())
    shutil.copy(tmp_path / "old.model", folder / "tokenizer.model")
    assert path() == names[-2]
    (folder / "dit.safetensors").write_bytes((tiny.weights / "dit.safetensors").read_bytes())
    assert path() == names[-2]  # the DiT has no part in it
    assert len(set(names)) == len(names)


def test_bfloat16(tiny, cache, loaded, tmp_path):
    """The override loads and computes in bfloat16, and the cache gives the same bits back."""
    bundle = load_bundle(tiny.weights)
    model = tiny.variant(text={"dtype": "bfloat16"})
    assert jax.tree.leaves(bundle.load_text(model.text))[0].dtype == jnp.bfloat16
    with begin(bundle, tiny.captions[:2], tmp_path / "half", model) as run:
        half = conditions_of(run, bundle)
    with begin(bundle, tiny.captions[:2], tmp_path / "again", model) as run:
        equal(conditions_of(run, bundle), half)
    assert loaded == ["text", "text"]
    stored = bundle.text_cache(model.text).load(tiny.captions[0]).states
    assert stored.dtype == jnp.bfloat16
    tokenizer = bundle.tokenizer
    equal(
        encode_captions(lambda: tiny.params["text"], model.text, tokenizer, tiny.captions[:2]), half
    )
    full = encode_captions(
        lambda: tiny.params["text"], tiny.model.text, tokenizer, tiny.captions[:2]
    )
    error = np.linalg.norm(half.text - full.text) / np.linalg.norm(full.text)
    assert 1e-4 < error < 0.05
    with pytest.raises(UserError, match="text.dtype is 'float16'; it can be float32, bfloat16"):
        begin(bundle, tiny.captions, tmp_path / "x", tiny.variant(text={"dtype": "float16"}))


def test_captions_that_are_too_long_load_nothing(tiny, cache, loaded):
    bundle, config = load_bundle(tiny.weights), tiny.model.text
    with pytest.raises(UserError, match="caption 2 has .* shorten it"):
        encode_captions(
            lambda: bundle.load_text(config),
            config,
            bundle.tokenizer,
            ["Pip.", "Pip waves " * 40],
            cache=bundle.text_cache(config),
        )
    assert loaded == [] and not entries(cache)


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    tiny, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BVJAX_TEXT_CACHE", str(tmp_path / "file" / "cache"))
    bundle = load_bundle(tiny.weights)
    with caplog.at_level("WARNING", "absl"):
        with begin(bundle, tiny.captions, tmp_path / "run") as run:
            assert conditions_of(run, bundle).num_chunks == 5
    assert "set BVJAX_TEXT_CACHE to another folder or to off" in caplog.text


def test_damaged_weights_are_refused_before_anything_is_loaded(tiny, loaded, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(tiny.weights, folder)
    wide = tiny.variant(text={"ffn_dim": 48})
    text = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), weights.shapes(wide, "text"))
    weights.save_tensors(folder / "text.safetensors", text)
    with pytest.raises(UserError, match="does not fit the model: .*fc1/kernel has shape"):
        load_bundle(folder)
    path = folder / "text.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        load_bundle(folder)
