"""The table of policies, and what of a configuration it decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig, PolicyConfig, PromptConfig
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from bvjax.policies import (
    blockvid,
    causvid,
    framepack,
    full,
    lct,
    longlive,
    magi,
    moc,
    pa_vdm,
    recache,
    reward_forcing,
    rolling,
    rolling_forcing,
    skyreels,
    sparse,
    windows,
)
from bvjax.policies.schedule import Round

Rounds = Callable[[ModelConfig, ChunkGrid, Sequence[int]], Iterator[Round]]
OWN = ("name",)  # of `PolicyConfig`, what all policies read


def _fits(model: ModelConfig, num_chunks: int) -> None:
    """No further condition."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """A row of `POLICIES`."""

    title: str  # a few words for people
    configure: Callable[[ModelConfig], ModelConfig]
    rounds: Rounds = blockvid.rounds
    reads: tuple[str, ...] = ()  # fields of `PolicyConfig` besides the name
    # (model, chunks of the story): raises `UserError` where the policy cannot make them.
    check: Callable[[ModelConfig, int], None] = _fits
    # Whether the window is `retrieval.num_recent`, which then is not set beside it.
    rolls: bool = False

    # Rounds are windows of several chunks, or of one with packed frames: `generate/windows.py` makes them.
    windows: bool = False
    one_device: bool = False  # also of a policy without windows
    # Guidance at each step, (by what was before, by the caption); None: by the caption, `guidance.scale`.
    scales: Callable[[ModelConfig], tuple[tuple[float, float], ...]] | None = None

    @property
    def scans(self) -> bool:
        """Returns whether all it does is one chunk after the other."""
        return self.rounds is blockvid.rounds


POLICIES: dict[str, Policy] = {
    "blockvid": Policy("recent and retrieved chunks, sparse", blockvid.configure),
    "rolling": Policy(
        "rolling KV cache (Self Forcing)",
        rolling.configure,
        reads=("window", "sink"),
        rolls=True,
    ),
    "longlive": Policy(
        "rolling KV cache with a sink, encoded anew at a new caption (LongLive)",
        longlive.configure,
        longlive.rounds,
        reads=("window",),
        check=longlive.check,
        rolls=True,
    ),
    "sparse": Policy(
        "rolling KV cache, sparse", sparse.configure, reads=("window", "sink"), rolls=True
    ),
    "full": Policy(
        "full history",
        full.configure,
        reads=("window",),
        check=full.check,
        rolls=True,
    ),
    "moc": Policy(
        "full history, of which each query looks at a few chunks (a reading of MoC)",
        moc.configure,
        reads=("window", "top"),
        check=moc.check,
        rolls=True,
        one_device=True,
    ),
    "reward_forcing": Policy(
        "rolling KV cache whose sink takes in what leaves it (Reward Forcing)",
        reward_forcing.configure,
        reward_forcing.rounds,
        reads=("window", "decay"),
        check=reward_forcing.check,
        rolls=True,
    ),
    "causvid": Policy(
        "full history in segments, each begun with the end of the last (CausVid)",
        causvid.configure,
        causvid.rounds,
        reads=("window",),
        check=causvid.check,
    ),
    "skyreels": Policy(
        "overlapping windows without a memory (SkyReels-V2-DF)",
        skyreels.configure,
        reads=("lag",),
    ),
    "magi": Policy(
        "four chunks under way, a quarter of the steps apart (MAGI-1)",
        magi.configure,
        magi.rounds,
        check=magi.check,
        rolls=True,
        windows=True,
        scales=magi.scales,
    ),
    "pa_vdm": Policy(
        "a clean chunk and ever noisier ones, all seeing each other (PA-VDM)",
        pa_vdm.configure,
        pa_vdm.rounds,
        reads=("window",),
        check=windows.check_lag,
        windows=True,
    ),
    "rolling_forcing": Policy(
        "a diagonal of levels behind a rolling cache with a sink (Rolling Forcing)",
        rolling_forcing.configure,
        rolling_forcing.rounds,
        reads=("window",),
        check=rolling_forcing.check,
        rolls=True,
        windows=True,
    ),
    "framepack": Policy(
        "packed frames, the last section first (FramePack)",
        framepack.configure,
        framepack.inverted_rounds,
        check=framepack.check,
        windows=True,
    ),
    "framepack_f1": Policy(
        "packed frames, forward (FramePack-F1)",
        framepack.configure,
        framepack.forward_rounds,
        check=framepack.check,
        windows=True,
    ),
    "lct": Policy(
        "windows of chunks in full attention, half of each the end of the last (a reading of LCT)",
        lct.configure,
        lct.rounds,
        reads=("window",),
        windows=True,
    ),
}


def policy_of(name: str) -> Policy:
    """The row of a `policy.name`; raises `UserError` naming the legal ones."""
    if name not in POLICIES:
        raise UserError(f"policy.name is {name!r}; it can be {', '.join(POLICIES)}")
    return POLICIES[name]


def configure(model: ModelConfig, assignments: Iterable[str] = ()) -> ModelConfig:
    """`model` with overrides: those of `policy` first, then what that policy decides, then the others.

    A configuration that says the policy already is left as it is, as a run folder's is; giving
    `policy.name` decides all again.

    Raises:
        UserError: as `apply_overrides`; an unknown policy, or a field that it does not read.
    """
    texts = list(assignments)
    own = [text for text in texts if text.strip().startswith("policy.")]
    others = [text for text in texts if text not in own]
    if own:
        keys = [text.partition("=")[0].strip() for text in own]
        if "policy.name" in keys:
            model = dataclasses.replace(model, policy=PolicyConfig())
        model = apply_overrides(model, own)
        row = policy_of(model.policy.name)
        _check_fields(model.policy, row, keys)
        model = row.configure(model)
    return apply_overrides(model, others)


def check(model: ModelConfig, num_chunks: int = 1) -> None:
    """Raises `UserError` when the policy of `model` cannot make a story of so many chunks."""
    row = policy_of(model.policy.name)
    if row.rolls and model.policy.window != model.retrieval.num_recent:
        raise UserError(
            f"policy.window is {model.policy.window} and retrieval.num_recent {model.retrieval.num_recent}; "
            f"with policy {model.policy.name} give policy.window alone"
        )
    if model.retrieval.offset and row is not POLICIES["blockvid"]:
        raise UserError(
            f"retrieval.offset is {model.retrieval.offset}; policy {model.policy.name} sees the chunks right before a "
            "chunk: it must be 0"
        )
    if model.memory.granularity == "head" and not row.scans:
        raise UserError(
            f"memory.granularity is 'head', which policy {model.policy.name} does not do; it can be layer or model"
        )
    if row.windows:
        _check_windows(model)
    if model.prompt.change == "recache":
        if not row.scans:
            able = ", ".join(n for n, other in POLICIES.items() if other.scans)
            raise UserError(
                f"prompt.change is 'recache', which policy {model.policy.name} does not do (longlive always does); it "
                f"can be {able}"
            )
        if model.memory.offload == "host":
            raise UserError(
                "prompt.change='recache' encodes entries again, and memory.offload='host' writes each once; use "
                "memory.offload='none'"
            )
    row.check(model, num_chunks)


def check_layout(model: ModelConfig, devices: int) -> None:
    """Raises `UserError` when the policy of `model` cannot share its work among so many devices."""
    row = policy_of(model.policy.name)
    if devices > 1 and (row.windows or row.one_device):
        raise UserError(
            f"policy {model.policy.name} is made on one device, and the mesh has {devices}"
        )
    if devices > 1 and model.memory.granularity == "head":
        raise UserError(f"memory.granularity='head' is of one device, and the mesh has {devices}")


def _check_windows(model: ModelConfig) -> None:
    """Raises `UserError` for what windows of chunks cannot have."""
    name = f"policy {model.policy.name}"
    if model.memory.offload != "none":
        raise UserError(f"{name} keeps its bank on the device; use memory.offload='none'")
    if model.chunk.first == "overlap":
        raise UserError(
            f"{name} lets chunks see each other, not the end of the last; chunk.first can be separate or joined"
        )
    for key in ("history_noise", "ar_step"):
        if getattr(model.sampler, key):
            raise UserError(f"{name} has levels of its own; sampler.{key} must be 0")
    if model.sampler.causal_block > 1:
        raise UserError(f"{name} has places of whole chunks; sampler.causal_block must be 1")
    if model.guidance.memory:
        raise UserError(
            f"{name} retrieves nothing, so guidance.memory={model.guidance.memory:g} does nothing; it must be 0"
        )


def rounds(
    model: ModelConfig,
    num_chunks: int,
    captions: Sequence[int] | None = None,
    cuts: Collection[int] = (),
) -> Iterator[Round]:
    """The rounds of a story of so many chunks.

    Args:
        captions: of each chunk a number that is the same where captions are; None: all differ.
        cuts: ids of chunks that begin a shot.
    """
    grid = ChunkGrid.of(model, num_chunks)
    captions = range(num_chunks) if captions is None else captions
    turns = policy_of(model.policy.name).rounds(model, grid, captions)
    if model.prompt.change != "recache":
        return turns
    return recache.recached(turns, model, grid, captions, recache.shots_of(grid, cuts))


def check_cuts(model: ModelConfig, cuts: Collection[int]) -> None:
    """Raises `UserError` when a video of `model` cannot have cuts: `policy_of(...).scans` says where it can."""
    if not cuts:
        return
    name = model.policy.name
    if not policy_of(name).scans:
        able = ", ".join(n for n, row in POLICIES.items() if row.scans)
        raise UserError(f"the story has cuts, which policy {name} does not make; it can be {able}")
    if model.chunk.first == "overlap":
        raise UserError(
            "the story has cuts, but with chunk.first='overlap' each window begins with the end of the last; use "
            "chunk.first='separate' or joined"
        )


def emission_order(model: ModelConfig, num_chunks: int) -> list[int]:
    """Ids of the pieces of a video in the order in which they are finished; the anchor is the first."""
    anchor = [
        i for i in ChunkGrid.of(model, num_chunks).piece_ids if i < ChunkGrid.of(model).first_id
    ]
    return anchor + [i for turn in rounds(model, num_chunks) for i in turn.emits]


def without(model: ModelConfig) -> ModelConfig:
    """The model without its policy and `prompt`: what programs of one chunk are compiled for, whoever asks."""
    return dataclasses.replace(model, policy=PolicyConfig(), prompt=PromptConfig())


def _check_fields(config: PolicyConfig, row: Policy, keys: Sequence[str]) -> None:
    """Raises `UserError` for a field that is set and that the policy does not read."""
    for key in keys:
        name = key.removeprefix("policy.")
        if name not in (*OWN, *row.reads):
            readers = ", ".join(n for n, other in POLICIES.items() if name in other.reads)
            raise UserError(
                f"{key} is {getattr(config, name)}, which policy {config.name} does not read; it is of "
                f"{readers}"
            )
    for name in ("window", "top", "lag"):
        if getattr(config, name) < 0:
            raise UserError(
                f"policy.{name} is {getattr(config, name)}; it must be 1 or more (0: the policy's own)"
            )
