"""The beginning of a video becomes the first chunks of a run, in every layout, and stays so."""

import dataclasses
import functools
import json

import av
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from bvjax import weights
from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.checks import check_model
from bvjax.generate.decoding import decode_piece
from bvjax.generate.rollout import rebuild_bank, stream
from bvjax.loading.bundle import load_bundle
from bvjax.media.source_video import write_copy
from bvjax.media.video_io import read_video
from bvjax.nets import vae
from bvjax.runs.create import create_run
from bvjax.runs.decode import decode
from bvjax.runs.execute import execute
from bvjax.runs.prefix import Encoding, encode_chunks, take
from bvjax.runs.redo import redo
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story

LAYOUTS = ("separate", "joined", "overlap", "overlap latents")
CASES = [
    layout if layout in ("separate", "overlap") else pytest.param(layout, marks=pytest.mark.slow)
    for layout in LAYOUTS
]
SEED = 5


def moving(count, height=32, width=32):
    """Smooth frames that change: uint8 [count, height, width, 3]."""
    t, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in (count, height, width)), indexing="ij")
    waves = np.stack([np.sin(4 * t + y), np.cos(x - 5 * t), np.sin(x * y + 3 * t)], axis=-1)
    return (127 + 100 * waves).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(tiny):
    return load_bundle(tiny.weights)


@pytest.fixture(scope="module")
def story(tiny):
    return Story(tiny.captions[:4], title="Pip")


@pytest.fixture(scope="module")
def models(tiny):
    latents = {"first": "overlap", "history": "latents"}
    handed_on = tiny.variant(chunk=latents, guidance={"scale": 1.0}, sampler={"kind": "euler"})
    plain = tiny.variant(guidance={"scale": 1.0}, sampler={"kind": "euler"})
    return dict(zip(LAYOUTS, (plain, tiny.joined, tiny.overlap, handed_on), strict=True))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video without loss, of 19 frames: two chunks and some frames in every layout."""
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    write_copy(path, moving(19), 8)
    return path


def begin(bundle, model, story, path, clip, **more):
    return create_run(bundle, model, story, path, seed=SEED, scale=1, video=clip, **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bundle, story, models, clip):
    """A whole run of a layout: its folder, and what `produce` told."""

    @functools.cache
    def run_of(layout):
        path = tmp_path_factory.mktemp("runs") / layout.replace(" ", "_")
        with begin(bundle, models[layout], story, path, clip) as run:
            return path, list(execute(run, bundle))

    return run_of


def stored(path):
    return {p.name: p.read_bytes() for p in sorted((path / "latents").glob("*.npy"))}


def load(path):
    return {int(p.stem[-2:]): np.load(p) for p in sorted((path / "latents").glob("*.npy"))}


def encode(params, model, frames):
    params = jax.tree.map(jnp.asarray, params)
    return np.asarray(vae.encode(params, model.vae, vae.to_float(frames)[None])[0])


@pytest.mark.parametrize("layout", CASES)
def test_given_chunks_are_the_encoded_frames(finished, models, tiny, layout):
    path, progress = finished(layout)
    model, params = models[layout], tiny.params["vae"]
    frames = moving(19)[6 if layout == "joined" else 2 :]  # the video's end
    if layout == "separate":  # 1 + 2 * 8 frames: the first is the anchor
        whole = encode(params, model, frames[:17])
        want = {0: whole[:1], 1: whole[1:3], 2: whole[3:5]}
    elif layout == "joined":  # 4 * (2 * 2 - 1) + 1 frames
        whole = encode(params, model, frames[:13])
        want = {0: whole[:2], 1: whole[2:]}
    elif layout == "overlap":  # windows by themselves, that share a frame
        want = {i: encode(params, model, frames[8 * i - 8 : 8 * i + 1]) for i in (1, 2)}
    else:  # windows of one encoding, that share a latent frame
        whole = encode(params, model, frames[:17])
        want = {1: whole[:3], 2: whole[2:]}
    found = load(path)
    for chunk_id, latents in want.items():
        np.testing.assert_allclose(found[chunk_id], latents, atol=1e-5)
    assert max(np.abs(x).max() for x in want.values()) > 0.1
    told = [p for p in progress if isinstance(p, Encoding)]
    total = {"separate": 5, "joined": 4, "overlap": 6, "overlap latents": 5}[layout]
    assert told == [Encoding(n, total) for n in range(1, total + 1)]
    fresh = [(p.chunk, p.fresh) for p in progress if not isinstance(p, Encoding)]
    assert fresh[-4:] == [(1, False), (2, False), (3, True), (4, True)]


@pytest.mark.parametrize("layout", CASES)
def test_the_bank_is_that_of_generated_chunks(finished, bundle, models, layout):
    """After the prefix, and at the end, it is the bank rebuilt from the latents on disk."""
    path, _ = finished(layout)
    model, params = models[layout], bundle.params["dit"]
    with RunDir.open(path) as run:
        _, conditions = run.load_conditions()
    latents, states, commit = load(path), [], steps.write_program
    given = {i: latents[i] for i in sorted(latents)[:-2]}

    def record(*args, **options):
        state, report = commit(*args, **options)
        states.append(jax.tree.map(np.array, state))
        return state, report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "write_program", record)
        pieces = list(
            stream(params, model, conditions, jax.random.key(SEED), done=given,
                   vae_params=bundle.params["vae"])
        )  # fmt: skip
    for piece in pieces:
        np.testing.assert_array_equal(piece.latents, latents[piece.chunk_id])
    for known, state in ((given, states[-3]), (latents, states[-1])):
        again = rebuild_bank(params, model, conditions, jax.random.key(SEED), known)
        jax.tree.map(np.testing.assert_array_equal, again, state)
    assert states[-3].bank.valid.sum() == 3 - (layout == "joined")


@pytest.mark.parametrize("layout", CASES)
def test_what_follows_depends_on_the_video(finished, bundle, story, models, tmp_path, layout):
    write_copy(tmp_path / "other.mkv", moving(19)[:, ::-1], 8)
    with begin(bundle, models[layout], story, tmp_path / "run", tmp_path / "other.mkv") as run:
        list(execute(run, bundle))
    before, after = load(finished(layout)[0]), load(tmp_path / "run")
    assert min(np.abs(before[i] - after[i]).max() for i in before) > 1e-3


@pytest.mark.parametrize("layout", CASES)
def test_video_and_report_are_whole(finished, bundle, layout):
    path, _ = finished(layout)
    report = json.loads((path / "report.json").read_text())
    assert report["chunks_done"] == 4 and report["chunks_given"] == 2
    with RunDir.open(path) as run:
        frames = run.grid.num_frames
        assert len(read_video(run.video)[0]) == report["video"]["frames"] == frames
        made = run.video.read_bytes()
        assert decode(run, bundle) == frames
        assert run.video.read_bytes() == made
        told = list(execute(run, bundle, only_report=True))
    assert [p.fresh for p in told] == [False] * len(told)


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_resumed_anywhere_it_is_the_same(finished, bundle, story, models, clip, tmp_path, layout):
    want = stored(finished(layout)[0])
    for stop in range(1, len(want)):
        path = tmp_path / str(stop)
        source = tmp_path / "clip.mkv"
        source.write_bytes(clip.read_bytes())
        with begin(bundle, models[layout], story, path, source) as run:
            going = execute(run, bundle)
            while len(stored(path)) < stop:
                next(going)
            going.close()
        source.unlink()  # the run has its own copy
        assert len(stored(path)) == stop
        with RunDir.open(path) as run:
            list(execute(run, bundle))
        assert stored(path) == want


def test_damaged_chunks_are_encoded_again(finished, bundle, story, models, clip, tmp_path):
    with begin(bundle, models["joined"], story, tmp_path / "run", clip, chunks=3) as run:
        list(execute(run, bundle))
        want = stored(run.path)
        (run.path / "latents" / "chunk_01.npy").write_bytes(b"damaged")
    with begin(bundle, models["joined"], story, tmp_path / "run", clip, chunks=3) as run:
        list(execute(run, bundle))
    assert stored(run.path) == want
    (run.path / "latents" / "chunk_01.npy").unlink()
    content = (run.path / "given.mkv").read_bytes()
    for damage, says in ((b"damaged", "cannot read the video"), (content[:9000], "cut short")):
        (run.path / "given.mkv").write_bytes(damage)
        with RunDir.open(run.path) as again, pytest.raises(UserError, match=says):
            list(execute(again, bundle))


def test_another_video_is_another_run(finished, bundle, story, models, clip, tmp_path):
    path, model = finished("separate")[0], models["separate"]
    begin(bundle, model, story, path, clip).close()  # the same command goes on
    write_copy(tmp_path / "other.mkv", moving(19)[:, ::-1], 8)
    for change in ({"video": tmp_path / "other.mkv"}, {"video": None}, {"video_chunks": 1}):
        arguments = {"seed": SEED, "scale": 1, "video": clip} | change
        with pytest.raises(UserError, match="already holds another run"):
            create_run(bundle, model, story, path, **arguments)


def test_redo_keeps_the_given_chunks(bundle, story, models, clip, tmp_path):
    with begin(bundle, models["separate"], story, tmp_path / "run", clip) as run:
        list(execute(run, bundle))
    before = stored(run.path)
    with RunDir.open(run.path) as run:
        for number in (1, 2):
            with pytest.raises(UserError, match="a video gave chunks 1 to 2; it can be 3 to 4"):
                redo(run, bundle, number, {})
        again = redo(run, bundle, 3, {3: "Pip waves."})
    with again:
        list(execute(again, bundle))
    after = stored(again.path)
    same = [name for name in before if after[name] == before[name]]
    assert same == ["chunk_00.npy", "chunk_01.npy", "chunk_02.npy"]


def test_how_many_chunks_are_taken(models, clip):
    for layout, frames in zip(LAYOUTS, (17, 13, 17, 17), strict=True):
        model = models[layout]
        assert take(clip, model, 9).chunks == take(clip, model, 3).chunks == 2
        assert take(clip, model, 2).chunks == take(clip, model, 9, 1).chunks == 1
        taken, head = take(clip, model, 9), take(clip, model, 9, part="start")
        assert taken.num_frames == ChunkGrid.of(model, 2).num_frames == frames
        np.testing.assert_array_equal(list(taken.frames()), moving(19)[-frames:])
        np.testing.assert_array_equal(list(head.frames()), moving(19)[:frames])
        assert taken.sha256 != head.sha256
        assert taken.sha256 == take(clip, model, 9, 2).sha256 != take(clip, model, 9, 1).sha256


def test_a_vae_of_other_strides(tiny):
    """One latent of 2 frames and 4 pixels: what is encoded and decoded is what the grid says."""
    strides = dict(spatial_downsample=(True, True, False), temporal_downsample=(False, True, False))
    model = tiny.variant(vae=strides, memory={"capacity": 16})
    check_model(model)
    grid = ChunkGrid.of(model, 2)
    shapes = weights.shapes(model, "vae")
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    encoded = dict(encode_chunks(zeros, model, 2, moving(grid.num_frames)))
    latents = np.concatenate(list(encoded.values()))
    assert latents.shape == (grid.num_latents, *grid.latent_size, 16) == (9, 8, 8, 16)
    state, count = None, 0
    for piece in encoded.values():
        decode = lambda params, state, piece: decode_piece(params, model, state, piece)
        state, frames = jax.eval_shape(decode, shapes, state, piece)
        count += frames.shape[0]
    assert count == grid.num_frames == 17 and frames.shape[1:] == (32, 32, 3)


def test_what_is_taken_is_told(models, clip):
    model = models["separate"]  # 8 frames a second
    assert take(clip, model, 9).summary() == (
        f"chunks 1 to 2 are seconds 0.25 to 2.38 of the video {clip}, which has 2.38; left out: the "
        "first 0.25 s"
    )
    assert take(clip, model, 9, 1, "start").summary() == (
        f"chunk 1 is seconds 0.00 to 1.12 of the video {clip}, which has 2.38; left out: the last "
        "1.25 s"
    )


def test_another_copy_of_the_video_is_refused(bundle, story, models, clip, tmp_path):
    with begin(bundle, models["separate"], story, tmp_path / "run", clip) as run:
        for frames, says in (
            (moving(17)[:, ::-1], "not those that the run began with"),
            (moving(16), "not those that the run began with"),
            (moving(17, 16, 32), "is 32x16; the run's videos are 32x32"),
        ):
            write_copy(run.path / "given.mkv", frames, 8)
            with pytest.raises(UserError, match=says):
                list(execute(run, bundle))
            assert not list((run.path / "latents").iterdir())


def test_refused(bundle, story, models, clip, tmp_path):
    write_copy(tmp_path / "short.mkv", moving(8), 8)
    PIL.Image.fromarray(moving(1)[0]).save(tmp_path / "picture.png")
    (tmp_path / "text.mp4").write_text("hello")
    short, picture = tmp_path / "short.mkv", tmp_path / "picture.png"
    wide = models["overlap"].chunk
    wide = dataclasses.replace(
        models["overlap"], chunk=dataclasses.replace(wide, frames=20, overlap_frames=17)
    )
    for change, says in (
        ({"video": tmp_path / "none.mp4"}, "No such file"),
        ({"video": tmp_path / "text.mp4"}, "cannot read the video"),
        ({"video": short}, r"a chunk takes 9 frames \(1.12 s at 8 fps\), and it has 8"),
        ({"video": picture}, "it has 1 "),
        ({"video_chunks": 3}, r"3 chunks take 25 frames \(3.12 s .* it has 19 \(2.38 s\)"),
        ({"video_chunks": 3, "model": models["joined"]}, "3 chunks take 21 frames"),
        ({"model": wide}, "a chunk takes 37 frames"),
        ({"video_chunks": 0}, "`video_chunks` is 0; .* it can be 1 to 3"),
        ({"video_chunks": 4}, "with 4 chunks in the story it can be 1 to 3: one must be left"),
        ({"chunks": 1}, "no chunk is left to generate"),
        ({"image": picture}, "`image` and `video` are both given"),
        ({"video": None, "video_chunks": 1}, "there is no `video`"),
        ({"video": None, "video_part": "end"}, "`video_part` is end, but there is no `video`"),
        ({"video_part": "middle"}, "it can be end or start"),
    ):
        arguments = {"model": models["separate"], "video": clip} | change
        with pytest.raises(UserError, match=says):
            create_run(bundle, story=story, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_memory_does_not_grow_with_the_video(models, tiny, monkeypatch):
    """Every piece goes through one of two programs, and frames are drawn as they are needed."""
    sizes, encode_stream = [], vae.encode_stream

    def counted(params, config, state, frames, *, first, layout):
        sizes.append((frames.shape[1], first))
        return encode_stream(params, config, state, frames, first=first, layout=layout)

    monkeypatch.setattr(vae, "encode_stream", counted)
    model = dataclasses.replace(
        models["separate"], vae=dataclasses.replace(models["separate"].vae, latent_mean=(0.5,) * 16)
    )  # a model of this test's own, so that it is compiled here
    drawn = []

    def frames():
        for picture in moving(65):
            drawn.append(picture)
            yield picture

    for number, _ in enumerate(encode_chunks(tiny.params["vae"], model, 8, frames())):
        assert len(drawn) == 1 + 4 * number
    assert sizes == [(1, True), (4, False)]


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_from_an_image_in_every_layout(bundle, story, models, tmp_path, layout):
    PIL.Image.fromarray(moving(1)[0]).save(tmp_path / "first.png")
    with create_run(
        bundle,
        models[layout],
        story,
        tmp_path / "run",
        scale=1,
        image=tmp_path / "first.png",
        chunks=2,
    ) as run:
        list(execute(run, bundle))
        assert len(read_video(run.video)[0]) == run.grid.num_frames
    want = encode(bundle.params["vae"], models[layout], moving(1))
    first = load(run.path)[0 if layout != "overlap" else 1]
    np.testing.assert_allclose(first[:1], want, atol=1e-5)


def test_a_video_of_another_rate_and_size(bundle, story, models, tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        out = container.add_stream("libx264", rate=24)
        out.height, out.width, out.pix_fmt = 48, 80, "yuv420p"
        for picture in moving(31, 48, 80):
            container.mux(out.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(out.encode())
    clip = tmp_path / "clip.mp4"
    with begin(
        bundle, models["separate"], story, tmp_path / "run", clip, video_part="start"
    ) as run:
        frames = list(run.video_frames())
        assert run.settings.video_chunks == 1 and len(frames) == 9  # 31 / 24 * 8 is a bit over 10
    for number, frame in enumerate(frames):
        want = PIL.Image.fromarray(moving(31, 48, 80)[3 * number][:, 16:64]).resize((32, 32))
        assert np.abs(frame.astype(int) - np.asarray(want)).mean() < 6
