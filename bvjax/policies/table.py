"""The table of policies, and what of a configuration it decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig, PolicyConfig
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from bvjax.policies import blockvid, full, longlive, rolling, sparse
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
    refreshes: bool = False  # some rounds have a `refresh`
    # Whether the window is `retrieval.num_recent`, which then is not set beside it.
    rolls: bool = False

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
        refreshes=True,
        rolls=True,
    ),
    "sparse": Policy(
        "rolling KV cache, sparse", sparse.configure, reads=("window", "sink"), rolls=True
    ),
    "full": Policy("full history", full.configure, reads=("window",), check=full.check, rolls=True),
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
    row.check(model, num_chunks)


def rounds(
    model: ModelConfig, num_chunks: int, captions: Sequence[int] | None = None
) -> Iterator[Round]:
    """The rounds of a story of so many chunks.

    Args:
        captions: of each chunk a number that is the same where captions are; None: all differ.
    """
    grid = ChunkGrid.of(model, num_chunks)
    captions = range(num_chunks) if captions is None else captions
    return policy_of(model.policy.name).rounds(model, grid, captions)


def without(model: ModelConfig) -> ModelConfig:
    """The model without its policy: what programs of one chunk are compiled for, whoever asks for them."""
    return dataclasses.replace(model, policy=PolicyConfig())


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
    if config.window < 0:
        raise UserError(
            f"policy.window is {config.window}; it must be 1 or more chunks (0: the policy's own)"
        )
