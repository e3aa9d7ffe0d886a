"""The command line: python -m bvjax generate | resume | redo | decode | report | convert | plan |
evaluate | compare | validate | studio | doctor.

Whatever is wrong with the input is said in one sentence, with exit code 2, before any work starts.
"""

# JAX is imported inside the commands: --help and most refusals should not wait for it.
from __future__ import annotations

import argparse
import contextlib
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bvjax import cli_evaluate, cli_plan, cli_studio, console
from bvjax.errors import UserError
from bvjax.presets import PRESETS

if TYPE_CHECKING:
    from bvjax.config import ModelConfig
    from bvjax.loading.bundle import Bundle
    from bvjax.runs.run_dir import RunDir

EXAMPLES = """\
examples:
  python -m bvjax generate --story experiments/stories/fox.json --out runs/fox
  python -m bvjax generate --prompt "A small orange fox called Pip waves hello." --chunks 3 --out runs/pip
  python -m bvjax generate --story experiments/stories/fox.json --out runs/longer --video runs/pip/video.mp4
  python -m bvjax resume runs/fox
  python -m bvjax redo runs/fox --from-chunk 12 --caption 12="Ada comes back to Willow Hollow."
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 where work failed or some videos could not be
    measured, 2 for bad input, 130 when stopped by Ctrl-C, 141 when nobody reads its output."""
    args = _parser().parse_args(argv)
    return console.run(lambda: args.command(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bvjax",
        description="Minutes of video from a story, made chunk by chunk and never lost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="command")

    generate = commands.add_parser(
        "generate", help="make a video from a story", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make a video from a story. The same command again goes on with the same run.",
    )  # fmt: skip
    generate.set_defaults(command=_generate)
    add = generate.add_argument
    source = generate.add_mutually_exclusive_group(required=True)
    source.add_argument("--story", metavar="FILE", help="JSON: captions, one per chunk or timed")
    source.add_argument(
        "--prompt", metavar="TEXT", help="one caption for all chunks (--chunks of them)"
    )
    add("--out", required=True, metavar="DIR", help="new folder for the run")
    add("--preset", metavar="NAME", help=f"{', '.join(PRESETS)} (default: mini)")
    add("--weights", metavar="DIR", help="weights folder (default: that of the preset)")
    add("--image", metavar="FILE", help="first frame of the video")
    add("--video", metavar="FILE", help="a video to go on from: captions 1, 2, ... describe it")
    add("--video-chunks", type=int, metavar="N", dest="video_chunks",
        help="chunks to take of it (default: all whole ones, leaving one to generate)")  # fmt: skip
    add("--video-part", choices=("end", "start"), dest="video_part",
        help="which part of it to take (default: end, so that the video goes on)")  # fmt: skip
    add("--seed", type=int, default=0, help="another seed, another video (default: 0)")
    add("--steps", type=int, metavar="N", help="solver steps per chunk (default: the preset's)")
    add("--chunks", type=int, metavar="N", help="only the first N chunks of the story; "
        "with --prompt how many (default: 1)")  # fmt: skip
    add("--scale", type=int, metavar="N", help="enlarge the video N times (default: to 256 pixels)")
    add(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change the configuration, for example memory.tau=0.97; may be repeated",
    )  # fmt: skip
    add("--policy", metavar="NAME", help="how chunks are made (default: blockvid): rolling, longlive, "
        "framepack and others of docs/policies.md; its numbers are --set policy.*")  # fmt: skip
    add("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", dest="loras",
        help="a LoRA, LoHa, LoKr or DoRA for the DiT (strength: default 1); may be repeated")  # fmt: skip
    add("--lora-at", action="append", default=[], metavar="K=STRENGTH[,...]", dest="lora_at",
        help="strengths of the LoRAs from chunk K on, 0 switches one off; may be repeated")  # fmt: skip
    add(
        "--preview",
        action="store_true",
        help="write preview.jpg into the run's folder with each step",
    )
    add(
        "--preview-decoder",
        metavar="FILE",
        help="with a small decoder, TAEHV's taew2_1.safetensors for example",
    )
    add("--profile", action="store_true", help="trace one chunk into the run's folder (xprof)")
    _mesh_option(generate)
    add("--coordinator", metavar="HOST:PORT", help="process 0 of several that make the video together; SLURM, "
        "Open MPI and TPU machines say so themselves")  # fmt: skip
    add("--num-processes", type=int, metavar="N", dest="num_processes", help="how many they are")
    add(
        "--process-id",
        type=int,
        metavar="I",
        dest="process_id",
        help="which this one is, from 0 on",
    )

    resume = _run_command(commands, "resume", _resume, "go on with a run that was stopped")
    resume.description = "Go on with a run that was stopped or killed, to the very same video."
    redo = _run_command(commands, "redo", _redo, "make a run again from some chunk on")
    redo.description = "Make chunks from K on again; those before stay as they are, bit-exact."
    redo.add_argument("--from-chunk", type=int, required=True, metavar="K", help="1 is the first")
    redo.add_argument(
        "--caption", action="append", default=[], metavar='K="TEXT"', dest="captions",
        help="new caption of chunk K; may be repeated",
    )  # fmt: skip
    redo.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="another seed for these chunks: other chunks (default: theirs)",
    )
    redo.add_argument(
        "--lora-strengths",
        metavar="STRENGTH[,...]",
        dest="lora_strengths",
        help="other strengths of the run's LoRAs for these chunks (default: theirs)",
    )
    for flag, text in (("--cut", "begins a shot"), ("--no-cut", "begins no shot")):
        redo.add_argument(
            flag,
            type=int,
            action="append",
            default=[],
            metavar="K",
            help=f"chunk K {text} (docs/prompts.md); may be repeated",
        )
    _run_command(commands, "decode", _decode, "make video.mp4 again from the latents")
    _run_command(commands, "report", _report, "make report.json and report.png again")

    convert = commands.add_parser(
        "convert",
        help="PyTorch checkpoints to weights folders, and back",
        description="Convert a checkpoint: Wan2.1, SkyReels-V2-DF, Self-Forcing (.safetensors, sharded "
        "or not, .pt, .pth), diffusers and transformers folders, bvjax weights folders.",
    )
    convert.set_defaults(command=_convert)
    add = convert.add_argument
    add("source", metavar="SRC", help="file or folder; its layout is found out")
    add("target", metavar="DST", help="folder to write")
    add("--to", required=True, metavar="LAYOUT", help="bvjax, diffusers, wan or skyreels")
    add("--dtype", default="keep", help="keep (default: bit-exact), float32, bfloat16, float16")
    add("--preset", metavar="NAME", help="what the model must be (default: found by its sizes)")
    add(
        "--stage",
        metavar="NAME",
        help="pretrained, stage1, stage2 or few-step (default: as its metadata say)",
    )
    add("--branch", metavar="NAME", help="of a training checkpoint (default: generator_ema)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change the configuration that is written; may be repeated")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files in DST")
    add("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", dest="loras",
        help="merge a LoRA into the DiT (strength: default 1); may be repeated")  # fmt: skip
    add("--verify", action="store_true", help="afterwards run DST's parts once in PyTorch and here: "
        "needs torch and memory for both, float32")  # fmt: skip

    cli_plan.register(commands, _mesh_option)
    cli_evaluate.register(commands)
    cli_studio.register(commands)
    doctor = commands.add_parser("doctor", help="check this installation in about a minute")
    doctor.set_defaults(command=_doctor)
    return parser


def _version() -> str:
    import importlib.metadata

    import bvjax

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return f"bvjax {bvjax.__version__} ({', '.join(' '.join(pair) for pair in versions.items())})"


def _run_command(commands, name: str, command, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    parser.add_argument("run", metavar="DIR", help="folder of the run")
    parser.add_argument("--weights", metavar="DIR", help="where its weights are now, if they moved")
    parser.add_argument(
        "--lora",
        action="append",
        metavar="FILE",
        dest="loras",
        help="where its LoRAs are now, if they moved; all of them in their order",
    )
    _mesh_option(parser)
    return parser


def _mesh_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="how several devices share the work: sizes of data, "
        "fsdp, context and tensor, for example data=2,context=4 (default: chosen)",
    )


# ---- commands ---------------------------------------------------------------------------------
def _generate(args: argparse.Namespace) -> int:
    from bvjax.distributed import start
    from bvjax.distributed.cluster import Options

    options = Options(args.coordinator, args.num_processes, args.process_id)
    return start.run(lambda: _generate_here(args), options)


def _generate_here(args: argparse.Namespace) -> int:
    from bvjax.distributed import start
    from bvjax.loading import bundle as bundles
    from bvjax.loading.preview_decoder import load_preview_decoder
    from bvjax.runs import together
    from bvjax.runs.pipeline import load
    from bvjax.story import load_story, repeated

    story = load_story(args.story) if args.story else repeated(args.prompt, args.chunks or 1)
    folder = bundles.find_weights(args.preset, args.weights)
    overrides = list(args.overrides)
    if args.steps is not None:
        if any(text.partition("=")[0].strip() == "sampler.steps" for text in overrides):
            raise UserError("--steps and --set sampler.steps are both given; give one of them")
        overrides.append(f"sampler.steps={args.steps}")
    if args.policy is not None:
        if any(text.partition("=")[0].strip() == "policy.name" for text in overrides):
            raise UserError("--policy and --set policy.name are both given; give one of them")
        overrides.append(f"policy.name={args.policy}")
    console.set_up()
    pipeline = load(folder, overrides=overrides, mesh=args.mesh, lora=args.loras)
    decoder = None
    if args.preview_decoder:
        decoder = load_preview_decoder(args.preview_decoder, pipeline.model.vae)
    switches: dict[int, list[float]] = {}
    for number, strengths in map(_switch, args.lora_at):
        if number in switches:
            raise UserError(f"--lora-at {number} is given twice; give it once")
        switches[number] = strengths
    make = lambda: pipeline.create_run(
        story, args.out, seed=args.seed, scale=args.scale, image=args.image, video=args.video,
        video_chunks=args.video_chunks, video_part=args.video_part, chunks=args.chunks,
        lora_at=switches,
    )  # fmt: skip
    with together.everywhere(make, pipeline.bundle) as run:
        if start.is_main():
            _produce(
                run, pipeline.bundle, profile=args.profile, preview=args.preview, decoder=decoder
            )
        else:
            together.help_out(run, pipeline.bundle, again=args.profile)
    return 0


def _resume(args: argparse.Namespace) -> None:
    run, bundle = _open(args)
    with run:
        _produce(run, bundle)


def _redo(args: argparse.Namespace) -> None:
    from bvjax.runs.redo import redo

    edits: dict[int, str] = {}
    for chunk, caption in map(_edit, args.captions):
        if chunk in edits:
            raise UserError(f"--caption {chunk} is given twice; give it once")
        edits[chunk] = caption
    cuts = dict.fromkeys(args.cut, True)
    for number in args.no_cut:
        if number in cuts:
            raise UserError(f"chunk {number} is given to --cut and to --no-cut; give it to one")
        cuts[number] = False
    run, bundle = _open(args)
    with run:
        strengths = args.lora_strengths and _strengths(args.lora_strengths, "--lora-strengths")
        reopened = redo(run, bundle, args.from_chunk, edits, args.seed, strengths, cuts)
    with reopened:
        _produce(reopened, bundle)


def _decode(args: argparse.Namespace) -> None:
    from bvjax.runs.decode import decode

    run, bundle = _open(args)
    with run:
        frames = decode(run, bundle)
    console.tell(f"{run.video}: {frames} frames")


def _report(args: argparse.Namespace) -> None:
    from bvjax.runs.execute import execute

    run, bundle = _open(args)
    with run:
        for _ in execute(run, bundle, only_report=True):
            pass
    console.tell(f"{run.path / 'report.png'}\n{run.path / 'report.json'}")


def _convert(args: argparse.Namespace) -> None:
    from bvjax.conversion import lora
    from bvjax.conversion.converter import convert

    if args.verify:
        from bvjax.conversion import verify

        verify.check_available()
    convert(
        args.source, args.target, args.to, dtype=args.dtype, preset=args.preset, stage=args.stage,
        overrides=args.overrides, branch=args.branch, overwrite=args.overwrite,
        loras=[lora.parse(text) for text in args.loras], say=print,
    )  # fmt: skip
    if args.verify:
        for line in verify.verify(args.target):
            print(line)


def _doctor(args: argparse.Namespace) -> int:
    from bvjax.doctor import examine

    console.set_up()
    return 0 if examine(console.tell) else 1


# ---- shared -----------------------------------------------------------------------------------
def _open(args: argparse.Namespace) -> tuple[RunDir, Bundle]:
    from bvjax.loading import bundle as bundles
    from bvjax.placement import layout_of
    from bvjax.runs.fit import check_weights
    from bvjax.runs.run_dir import RunDir
    from bvjax.runs.run_settings import weights_folder

    run = RunDir.open(args.run)
    try:
        console.set_up()
        folder = weights_folder(run.settings.weights)
        if args.weights:
            folder = pathlib.Path(args.weights)
        if not folder.is_dir():
            raise UserError(f"there is no weights folder {folder}; say where it is with --weights")
        # Not as text, in which a colon may come before a strength.
        loras = args.loras or {weights_folder(place): 1.0 for place in run.settings.lora_files}
        layout = layout_of(run.settings.model, args.mesh)
        bundle = bundles.load_bundle(folder, layout, loras)
        check_weights(run, bundle)
        return run, bundle
    except BaseException:
        run.close()
        raise


def _produce(
    run: RunDir,
    bundle: Bundle,
    profile: bool = False,
    preview: bool = False,
    decoder: Mapping[str, Any] | None = None,
) -> None:
    """Follows a run with a progress bar.

    `profile` traces one of its chunks; `preview`, or a `decoder` for that, shows the one at work.
    """
    from tqdm import tqdm

    from bvjax import compilation
    from bvjax.loading.colours import watch_of
    from bvjax.profiling import ChunkTrace
    from bvjax.runs import together
    from bvjax.runs.execute import execute
    from bvjax.runs.prefix import Encoding
    from bvjax.runs.preview_file import PreviewFile

    if together.finished(run) and not profile:
        print(
            f"{run.path} is finished: {run.video} and {run.path / 'report.png'} are there; 'decode' or "
            "'report' makes them again, 'redo' makes chunks again"
        )
        return
    unknown = bundle.unknown_words(run.captions)
    if unknown:
        console.say(f"warning: this model never saw the words {', '.join(unknown)}")
    model, grid, started = run.settings.model, run.grid, time.perf_counter()
    guidance = f"guidance {model.guidance.scale:g}"
    if model.guidance.memory:
        guidance += f" ({model.guidance.memory:g} where chunks are retrieved)"
    console.tell(
        f"{run.path}: {grid.num_chunks} chunks of {grid.seconds_per_chunk:g} s, {grid.num_frames} "
        f"frames of {model.chunk.width}x{model.chunk.height} at {model.chunk.fps} fps\n"
        f"{model.sampler.steps} {model.sampler.kind} steps, {guidance}; {_seen(model)}"
    )
    if num_prefix := run.settings.video_chunks:
        console.tell(f"a video gives chunk 1{f' to {num_prefix}' if num_prefix > 1 else ''}")
    steps = model.sampler.steps
    trace = ChunkTrace(run.path / "profile") if profile else None
    devices = 1 if bundle.layout.mesh is None else bundle.layout.mesh.size
    target = (
        f"{model.chunk.height}x{model.chunk.width}, {grid.latents_per_chunk} latents, {devices} "
        f"device{'s' if devices > 1 else ''}"
    )
    on_terminal = console.on_terminal()
    total = len(grid.piece_ids) * steps
    hint = (
        f"what is finished is kept, 'python -m bvjax resume {shlex.quote(str(run.path))}' goes on"
    )
    with (
        console.going_on(hint),
        tqdm(total=total, unit="step", smoothing=0.2, disable=not on_terminal) as bar,
        compilation.announced(tqdm.write, target),
        contextlib.ExitStack() as inside,
    ):
        bar.set_description("getting ready")
        watch = None
        if preview or decoder is not None:
            shown = inside.enter_context(PreviewFile(run))
            watch = watch_of(bundle, shown, decoder)
            tqdm.write(f"the chunk at work is {shown.path}")
        for progress in execute(run, bundle, watch=watch):
            if isinstance(progress, Encoding):
                text = f"encoding the video, latent frame {progress.done}/{progress.total}"
                bar.set_description(text)
                if not on_terminal and progress.done == progress.total:
                    console.say(text)
                continue
            text = f"chunk {progress.chunk}/{grid.num_chunks}"
            bar.set_description(text)
            if not on_terminal:
                seconds = f"{sum(progress.seconds.values()):.1f} s"
                console.say(f"{text}: {seconds if progress.fresh else 'was there'}")
            elif progress.fresh:
                bar.update(steps)
            else:  # on disk already: counts as done, but not as speed
                bar.initial += steps
                bar.n += steps
                bar.refresh()
            if trace:
                trace.finished(progress.chunk, progress.fresh)
        if trace:
            trace.stop()
    console.tell(
        f"{run.video}\n{run.path / 'report.png'}\n{time.perf_counter() - started:.0f} s in all"
    )
    if trace:
        print(trace.how_to_look())


def _seen(model: ModelConfig) -> str:
    """Describes in words the context of a chunk."""
    from bvjax.policies import policy_of

    name, row = model.policy.name, policy_of(model.policy.name)
    anchor = "the first frame, " if model.memory.anchor else ""
    seen = (
        f"each chunk sees {anchor}{model.retrieval.num_recent} recent and {model.retrieval.num_retrieved} "
        f"{model.retrieval.kind} chunks of a bank of {model.memory.slots}"
    )
    if name == "blockvid":
        return seen
    return f"policy {name}: {row.title}" + ("" if row.windows else f"; {seen}")


def _switch(text: str) -> tuple[int, list[float]]:
    from bvjax.plain_text import whole_number

    number, equals, strengths = text.partition("=")
    chunk = whole_number(number)
    if not equals or chunk is None:
        raise UserError(f"--lora-at takes K=STRENGTH[,...], for example 7=0.5, not {text!r}")
    return chunk, _strengths(strengths, f"--lora-at {chunk}")


def _strengths(text: str, where: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{where} takes numbers with commas between them, not {text!r}") from None


def _edit(text: str) -> tuple[int, str]:
    from bvjax.plain_text import whole_number
    from bvjax.story import read_caption

    number, equals, caption = text.partition("=")
    chunk = whole_number(number)
    if not equals or chunk is None:
        raise UserError(f'--caption takes K="TEXT", for example 7="Pip waves.", not {text!r}')
    return chunk, read_caption(caption, f"the new caption {chunk}")[0]
