"""Rollouts of an environment as films with captions and tracks, which `data_pipelines.encode` and `curate` take:

    pip install crafter
    python -m data_pipelines.record_world --world crafter --films 20 --seconds 64 --out data/crafter
    python -m data_pipelines.encode --videos data/crafter --weights runs/mini --out data/crafter_latents --chunks 15

Beside each film lie its captions, made of what was done, and NAME.tracks.npz: the action that led to each frame (-1 for
the first) and its reward. Another environment is a function that returns a `World`, and a row in `WORLDS`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import npz_bytes, write_atomic, write_json
from bvjax.media.video_frames import Frame
from bvjax.media.video_io import VideoWriter

FPS, SIZE = 8, 256  # steps a second of film; pixels
CAPTION_SECONDS = 4
HOLD = 6  # steps for which the random player keeps an action, on average


@dataclasses.dataclass(frozen=True)
class World:
    """An environment.

    Args:
        phrases: what each action looks like, after "The player": one for each number from 0 on.
        reset: begins anew and returns the first frame.
        step: takes an action; returns frame, reward and whether this is the end.
        weights: how likely the random player takes each action, in proportion; () for all alike.
    """

    phrases: Sequence[str]
    reset: Callable[[], Frame]
    step: Callable[[int], tuple[Frame, float, bool]]
    weights: Sequence[float] = ()


def crafter(seed: int) -> World:
    """Crafter (Hafner 2021): survival on a generated island, seen from above."""
    import crafter as library

    env = library.Env(size=(SIZE, SIZE), seed=seed)
    known = {"noop": "stands still", "do": "uses what is in front", "sleep": "sleeps"}
    known |= {f"move_{way}": f"walks {way}" for way in ("left", "right", "up", "down")}
    phrases = [known.get(name, f"tries to {name.replace('_', ' ')}") for name in env.action_names]
    # All alike, it would stay where it is.
    weights = [8.0 if name.startswith("move_") else 1.0 for name in env.action_names]
    return World(phrases, env.reset, lambda action: env.step(action)[:3], weights)


WORLDS: dict[str, Callable[[int], World]] = {"crafter": crafter}


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Actions and rewards of each frame of a film."""

    actions: Int[np.ndarray, "f"]
    rewards: Float[np.ndarray, "f"]


def record(world: World, path: Path, frames: int, rng: np.random.Generator) -> Tracks:
    """Writes a film of a random player, who holds actions for a while so as to get somewhere; returns its tracks.

    A rollout that ends begins anew, and is cut there.
    """
    actions, rewards, action, over = [-1], [0.0], -1, False
    weights = np.array(world.weights or [1.0] * len(world.phrases), np.float64)
    with VideoWriter(path, FPS) as writer:
        writer.write(world.reset()[None])
        for _ in range(frames - 1):
            if over:
                picture, reward, over, action = world.reset(), 0.0, False, -1
            else:
                if action < 0 or rng.random() < 1 / HOLD:
                    action = int(rng.choice(len(weights), p=weights / weights.sum()))
                picture, reward, over = world.step(action)
            writer.write(np.ascontiguousarray(picture)[None])
            actions.append(action)
            rewards.append(float(reward))
    return Tracks(np.array(actions, np.int32), np.array(rewards, np.float32))


def captions(tracks: Tracks, phrases: Sequence[str]) -> list[str]:
    """A caption for every few seconds, with its times: the actions in them, most frequent first, three at most."""
    length, out = CAPTION_SECONDS * FPS, []
    for start in range(0, len(tracks.actions), length):
        done = tracks.actions[start : start + length]
        numbers, counts = np.unique(done[done >= 0], return_counts=True)
        most = numbers[np.argsort(-counts, kind="stable")][:3]
        text = ", then ".join(phrases[n] for n in most) or "stands still"
        last = start // FPS + max(1, -(-len(done) // FPS)) - 1
        out.append(f"The player {text} ({start // FPS:02d}s - {last:02d}s).")
    return out


def record_films(name: str, out: Path, films: int, seconds: int, seed: int) -> int:
    """Records the films that are not there yet; returns how many it made. Raises `UserError`."""
    if name not in WORLDS:
        raise UserError(f"`world` is {name!r}; it can be {', '.join(WORLDS)}")
    for field, value in {"films": films, "seconds": seconds}.items():
        if not 1 <= value <= 1_000_000:
            raise UserError(f"`{field}` is {value}; it can be 1 to 1000000")
    out.mkdir(parents=True, exist_ok=True)
    made = 0
    for number in tqdm(range(seed, seed + films), unit="film", disable=None):
        path = out / f"{name}_{number:06d}.mp4"
        if path.with_suffix(".json").exists():  # written last
            continue
        world = WORLDS[name](number)
        tracks = record(world, path, seconds * FPS, np.random.default_rng(number))
        write_atomic(path.with_suffix(".tracks.npz"), npz_bytes(**dataclasses.asdict(tracks)))
        write_json(path.with_suffix(".json"), {"captions": captions(tracks, world.phrases)})
        made += 1
    return made


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and record; returns the exit code."""
    parser = argparse.ArgumentParser("python -m data_pipelines.record_world")
    parser.add_argument("--world", default="crafter", help=", ".join(WORLDS))
    parser.add_argument("--out", type=console.path, required=True, metavar="DIR")
    for name, value in {"films": 20, "seconds": 64, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args(argv)

    def command() -> None:
        with console.going_on(console.AGAIN):
            made = record_films(a.world, a.out, a.films, a.seconds, a.seed)
            console.tell(f"{made} films recorded in {a.out}")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
