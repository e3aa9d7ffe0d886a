"""Compiled programs are kept, and a word is said when one is made."""

import logging
import types

import jax
import jax.numpy as jnp
import pytest

from bvjax import compilation


def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv(compilation.VARIABLE, str(tmp_path))
    assert compilation.cache_folder() == str(tmp_path)
    monkeypatch.delenv(compilation.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation.cache_folder().startswith(str(tmp_path / "bvjax" / "xla-"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation.cache_folder().startswith(str(tmp_path / ".cache" / "bvjax" / "xla-"))


def test_what_cannot_be_kept_is_not_said_to_be(tmp_path, monkeypatch):
    assert compilation.can_keep(str(tmp_path / "new" / "folder"))
    (tmp_path / "file").touch()
    said = []
    handler = compilation._Misses(said.append, "32x32")
    line = "PERSISTENT COMPILATION CACHE MISS for 'jit_denoise'"
    for folder, kept in ((tmp_path / "file" / "x", "not kept: "), (tmp_path, "kept in ")):
        monkeypatch.setattr(
            compilation.jax, "config", types.SimpleNamespace(jax_compilation_cache_dir=str(folder))
        )
        handler.handle(logging.LogRecord("jax", logging.DEBUG, "", 0, line, (), None))
        assert f"versions; {kept}{folder}" in said[-1]


@pytest.fixture
def cache(tmp_path):
    """An empty compilation cache that takes programs however quickly they compiled."""
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path))
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_a_word_before_a_program_is_made(cache):
    said = []
    logger = logging.getLogger("jax._src.compiler")
    before = logger.level, logger.propagate, list(logger.handlers)

    def denoise(x):
        return jnp.sin(x) * 3

    def helper(x):
        return jnp.cos(x) * 3

    with compilation.announced(said.append, "32x32, 2 latents, 1 device"):
        jax.jit(denoise)(jnp.ones(7))
        jax.jit(helper)(jnp.ones(7))
        jax.clear_caches()
        jax.jit(denoise)(jnp.ones(7))  # read from the cache
    assert len(said) == 1
    assert said[0].startswith("compiling the chunk step for 32x32, 2 latents, 1 device (first run")
    assert str(cache) in said[0]
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_other_records_go_on_as_before(caplog):
    with caplog.at_level(logging.WARNING, "jax"):
        with compilation.announced(print, ""):
            logging.getLogger("jax._src.compiler").warning("a warning")
            logging.getLogger("jax._src.compiler").debug("a trifle")
    assert [r.getMessage() for r in caplog.records] == ["a warning"]
