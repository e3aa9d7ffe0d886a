"""The configuration: frozen dataclasses, one per noun, gathered in `ModelConfig`.

`bvjax.presets` holds the named sets of numbers, `bvjax.overrides` turns `section.key=value` strings and
dictionaries into these classes and refuses unknown keys.  Every field is read somewhere; a test checks it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from bvjax.errors import UserError
from bvjax.level_schedule import ChunkLevelsConfig

WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


DTYPES = ("float32", "bfloat16", "float16")
POOLS = ("mean", "last", "max")
TEXT_DTYPES = ("float32", "bfloat16")  # T5's activations leave the range of float16
# Far above any network's sizes and far below where products of them no longer are numbers of 64 bits.
MAX_WIDTH, MAX_LAYERS, MAX_BLOCKS, MAX_STAGES = 2**16, 1024, 32, 8
MAX_FACTOR, MAX_CAPTION = 64, 4096
MAX_COUNT = 2**20  # of any number of things


def _check_range(section: object, where: str, maximum: int, *names: str, minimum: int = 1) -> None:
    """Raises `UserError` for a whole number, or one of a tuple of them, that is out of range."""
    for name in names:
        value = getattr(section, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not minimum <= number <= maximum:
                raise UserError(f"{where}.{name} is {value}; it must be {minimum} to {maximum}")


def _check_positive(section: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if not 0 < value < math.inf:
            raise UserError(f"{where}.{name} is {value}; it must be a finite number above 0")


def _check_correlation(values: tuple[float, ...], section: str, name: str, channels: int) -> None:
    if len(values) not in (0, channels) or not all(0 <= value < 1 for value in values):
        raise UserError(
            f"{section}.latent_correlation is {values}; it can have none or {section}.{name} = {channels} values of 0 "
            "or more and below 1"
        )


def _check_dtype(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise UserError(f"{name} is {value!r}; it can be {', '.join(legal)}")


def _check_numbers(section: Any, where: str = "") -> None:
    """Raises `UserError` for numbers that nothing can be made of, whatever they count."""
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > MAX_COUNT:
                raise UserError(f"{name} is {value}; it must not be above {MAX_COUNT}")
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} is {value}; it must be finite")


@dataclasses.dataclass(frozen=True)
class ChunkConfig:
    """Sizes of a video and how it is cut into chunks (paper section 3.1)."""

    height: int = 480  # pixels
    width: int = 832  # pixels
    fps: int = 24
    frames: int = 96  # T: pixel frames a chunk adds; a chunk has L = T/4 latent frames
    first: str = "separate"  # separate | joined | overlap: where latent 0 lives
    overlap_frames: int = 1  # only for first="overlap": frames two windows share, 1 or 17
    history: str = "pixels"  # pixels | latents: those frames encoded again, or handed on as latents


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Wan2.1 causal 3-D VAE (strides 4x8x8)."""

    dim: int = 96
    z_dim: int = 16
    patch: int = 1  # pixels of a side folded into channels before and after the network (Wan2.2: 2)
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    spatial_downsample: tuple[bool, ...] = (True, True, True)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD
    latent_scale: tuple[float, ...] = ()  # standard deviations after normalising; () = 1 each
    # Of the latent of a video's first frame, which bypasses the halvings of time; () = as all others.
    first_mean: tuple[float, ...] = ()
    first_std: tuple[float, ...] = ()
    latent_correlation: tuple[float, ...] = ()  # of a latent with the one before it; () = unknown
    dtype: str = "float32"  # of activations and matmuls; parameters are float32
    conv_impl: str = "auto"  # auto | taps | 3d, see `bvjax.nets.vae_layers.conv_3d`
    # Convolutions of stem and tail, on squares of `stem_patch` pixels around the fold, see `bvjax.nets.vae_stem_tail`.
    stem_dim: int = 0  # channels before the encoder's fold; 0 = no stem
    stem_blocks: int = 1
    tail_dim: int = 0  # channels after the decoder's unfold; 0 = no tail
    tail_blocks: int = 2
    stem_patch: int = 2  # 1 = at full resolution

    def __post_init__(self):
        _check_range(self, "vae", MAX_WIDTH, "dim", "z_dim")
        _check_range(self, "vae", MAX_FACTOR, "patch", "dim_mult", "stem_patch")
        _check_range(
            self, "vae", MAX_BLOCKS, "num_res_blocks", "stem_blocks", "tail_blocks", minimum=0
        )
        _check_range(self, "vae", MAX_WIDTH, "stem_dim", "tail_dim", minimum=0)
        if not 1 <= len(self.dim_mult) <= MAX_STAGES:
            raise UserError(
                f"vae.dim_mult has {len(self.dim_mult)} values; it must have 1 to {MAX_STAGES}"
            )
        _check_dtype("vae.dtype", self.dtype, DTYPES)
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise UserError(
                    f"vae.{name} has {len(getattr(self, name))} values; vae.z_dim is {self.z_dim}"
                )
        if len(self.latent_scale) not in (0, self.z_dim):
            raise UserError(
                f"vae.latent_scale has {len(self.latent_scale)} values; it can have none or "
                f"vae.z_dim = {self.z_dim}"
            )
        if {len(self.first_mean), len(self.first_std)} not in ({0}, {self.z_dim}):
            raise UserError(
                f"vae.first_mean has {len(self.first_mean)} values and vae.first_std "
                f"{len(self.first_std)}; both can have none or vae.z_dim = {self.z_dim}"
            )
        _check_correlation(self.latent_correlation, "vae", "z_dim", self.z_dim)
        for name in ("latent_std", "latent_scale", "first_std"):
            if min(getattr(self, name), default=1.0) <= 0:
                raise UserError(f"vae.{name} is {getattr(self, name)}; all values must be positive")
        for name in ("spatial_downsample", "temporal_downsample"):
            if len(getattr(self, name)) != len(self.dim_mult) - 1:
                raise UserError(
                    f"vae.{name} needs one value between each two of vae.dim_mult "
                    f"({len(self.dim_mult) - 1}), not {len(getattr(self, name))}"
                )
        staged = self.stem_dim or self.tail_dim
        if staged and self.patch % self.stem_patch:
            raise UserError(
                f"vae.stem_patch is {self.stem_patch}; with a stem or a tail it must divide "
                f"vae.patch = {self.patch}"
            )

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along height and width (8)."""
        return self.patch * 2 ** sum(self.spatial_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent after the first (4)."""
        return 2 ** sum(self.temporal_downsample)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """umT5 encoder: T5 with a relative-position bias of its own in each layer."""

    vocab_size: int = 256384
    dim: int = 4096
    num_layers: int = 24
    num_heads: int = 64
    head_dim: int = 64
    ffn_dim: int = 10240
    num_buckets: int = 32
    max_distance: int = 128
    max_length: int = 512  # rows handed to the DiT; captions longer than this are refused
    dtype: str = (
        "float32"  # float32 | bfloat16: of parameters and compute when captions are encoded
    )
    # mean | last | max: the one vector of a caption that retrieval compares, of its tokens' states; the last is the end
    # of the sentence.
    pool: str = "mean"

    def __post_init__(self):
        _check_range(self, "text", MAX_COUNT, "vocab_size", "max_distance")
        _check_range(self, "text", MAX_WIDTH, "dim", "num_heads", "head_dim", "ffn_dim")
        _check_range(self, "text", MAX_LAYERS, "num_layers")
        _check_range(self, "text", MAX_CAPTION, "max_length")
        _check_range(self, "text", MAX_WIDTH, "num_buckets", minimum=4)
        if self.max_distance <= self.num_buckets // 4:
            raise UserError(
                f"text.max_distance is {self.max_distance}; it must be above a quarter of "
                f"text.num_buckets = {self.num_buckets}"
            )
        _check_dtype("text.dtype", self.dtype, TEXT_DTYPES)
        if self.pool not in POOLS:
            raise UserError(f"text.pool is {self.pool!r}; it can be {', '.join(POOLS)}")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Wan2.1 diffusion transformer, chunk-causal through its context argument."""

    dim: int = 1536
    num_heads: int = 12
    num_layers: int = 30
    ffn_dim: int = 8960
    freq_dim: int = 256
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    rope_theta: float = 10000.0
    # none | linear: the network gives what the best linear guess of the velocity leaves, see
    # `nets.dit.add_linear_guess`.
    preconditioning: str = "none"
    latent_std: tuple[float, ...] = ()  # of the latents by channel, for that guess; () = 1 each
    similarity_keys: bool = False  # keys of context entries tell how alike the captions are
    spatial_position_embedding: bool = False  # tokens get an embedding of their (h, w) besides RoPE
    # A chunk is told the last latent of the chunk before it, and the guess of preconditioning=linear starts from that:
    # see `nets.previous_latent`.
    previous_latent: bool = False
    latent_correlation: tuple[float, ...] = ()  # by channel, for that guess; () = 0 each
    text_modulation: bool = False  # the mean of a caption's states is added to the time embedding
    fps_embedding: bool = False  # e0 gets an embedding of "16 fps" or "other", as in SkyReels-V2
    qk_init: float = 1.0  # first scale of norm_q: logits reach qk_init * sqrt(head_dim), 11 in Wan
    remat: str = "none"  # none | full | dots: what the backward pass recomputes
    dtype: str = "float32"  # matmul dtype; norms, softmax, modulation and RoPE stay fp32
    matmul_precision: str = (
        "float32"  # float32 | bfloat16: how float32 layers multiply, see `nets.matmul_precision`
    )

    def __post_init__(self):
        _check_range(self, "dit", MAX_WIDTH, "dim", "num_heads", "in_channels", "out_channels")
        _check_range(self, "dit", MAX_COUNT, "ffn_dim")
        _check_range(self, "dit", MAX_LAYERS, "num_layers")
        _check_range(self, "dit", MAX_FACTOR, "patch")
        _check_range(self, "dit", MAX_WIDTH, "freq_dim", minimum=2)
        if self.freq_dim % 2:
            raise UserError(f"dit.freq_dim is {self.freq_dim}; it must be even")
        if self.dim % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise UserError(
                f"dit.num_heads is {self.num_heads}; it must cut dit.dim = {self.dim} into heads of "
                "an even width of 6 or more"
            )
        _check_positive(self, "dit", "eps", "rope_theta", "qk_init")
        if (
            len(self.latent_std) not in (0, self.in_channels)
            or min(self.latent_std, default=1) <= 0
        ):
            raise UserError(
                f"dit.latent_std is {self.latent_std}; it can have none or dit.in_channels = "
                f"{self.in_channels} values above 0"
            )
        _check_correlation(self.latent_correlation, "dit", "in_channels", self.in_channels)
        if self.previous_latent and self.patch[0] != 1:
            raise UserError(
                f"dit.patch is {self.patch}; with dit.previous_latent it must be of one latent frame"
            )
        _check_dtype("dit.dtype", self.dtype, DTYPES)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """The semantic sparse KV bank (paper section 3.4, Algorithms 1 and 2)."""

    slots: int = 16
    capacity: int = 18944  # kept tokens a slot can hold
    anchor: bool = True  # frame 0 is kept whole, always visible, never evicted
    evict: str = "redundant"  # redundant | oldest: who leaves when no slot is free
    tau: float = 0.98  # share of the importance that the kept tokens must cover (Eq. 7)
    cover: str = "normalised"  # normalised | accumulated: which mass tau is taken of
    norm: str = "nnz"  # nnz | position | running_mean | none: CUMMEAN of Alg. 2 line 10
    # layer | head | model: what has a set of kept tokens of its own.  Algorithm 2 sums over the heads of a layer.
    granularity: str = "layer"
    # How keys and values are stored: "" as dit.dtype | bfloat16 | int8 | float8_e4m3fn; 8 bits come
    # with a scale for each token and head.
    dtype: str = ""
    # none | host: to pinned host memory, with only the entries that a chunk sees on the device.
    offload: str = "none"


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """BuildSparseKV's encoding of a finished chunk (Algorithm 2, lines 2-8)."""

    context: str = "none"  # none | with: does the clean pass see the chunk's own context
    # Self-Forcing and LongLive say `context_noise` for what is `label` here, in thousandths.
    label: float = 0.0  # sigma whose embedding the clean pass gets
    context_noise: float = 0.0  # sigma of fresh noise mixed into the latents before the clean pass
    mask: str = "chunk"  # chunk | frame | token: which keys a probe can see
    # own | all: keys that a probe's attention is shared among, the chunk's or those of its context too; all needs
    # context="with".
    softmax_over: str = "own"
    probe: str = "recent_random"  # recent_random | stratified | random | full
    n_recent: int = 64
    n_random: int = 64


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Entries that a chunk sees (Eq. 8, 9): the last `num_recent` ones and `num_retrieved` of the others."""

    kind: str = "semantic"  # semantic | rolling | oracle | random | none: of `memory.rules.RULES`
    num_recent: int = 2
    # Chunks between the recent ones and the chunk itself: Algorithm 1, counted from 1, has {c-3, c-2}, which is 1.  They
    # are among those that can be retrieved.
    offset: int = 0
    num_retrieved: int = 2  # the paper's l
    center: bool = False  # subtract the mean caption embedding of the bank before the cosine
    # Entries that the queries of a latent frame look at in each layer and head, those whose mean keys are most like
    # them; 0 = all (`nets.routing`).
    route: int = 0
    dense_recent: bool = False  # keep all tokens of the recent entries (Fig. 3's local cache)

    @property
    def span(self) -> int:
        """Distance of the oldest recent chunk, in chunks."""
        return self.num_recent + self.offset


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    # absolute | local | window | packed: times of context entries, see `memory.positions.time_bases`
    mode: str = "absolute"


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Initial noise of a chunk (Eq. 12, 13)."""

    base: str = "shared"  # shared | independent: one base noise for all chunks, or one each
    shuffle: int = 4  # s: latent frames shuffled on each side of a chunk boundary; 0 = off


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    kind: str = "unipc"  # unipc | euler | few_step
    steps: int = 30
    shift: float = 5.0
    schedule: str = "wan"  # wan | diffusers: whose sigmas are visited, see `solvers.sigmas`
    corrector: str = (
        "unipc"  # unipc | skyreels: from where unipc's first one starts, `unipc.weights`
    )
    few_step: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)  # unwarped timesteps
    # Diffusion forcing (SkyReels-V2), see `diffusion.diffusion_forcing`.
    history_noise: float = 0.0  # timestep, 0..1000, to which clean history is noised at each step
    ar_step: int = 0  # steps by which each block lags behind the block before; 0 = none lags
    causal_block: int = 1  # latent frames of a block; above 1 no block sees a later one


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """Classifier-free guidance: v = v_null + scale * (v_text - v_null).

    `memory` guides by what was retrieved as well: with it the null branch has neither the caption
    nor the retrieved entries, only the anchor and the recent ones, and `memory` takes the place of
    `scale` in chunks that retrieved something.  It costs nothing beside ordinary guidance.
    """

    scale: float = 5.0
    memory: float = 0.0  # scale in chunks that retrieved something; 0 = `scale`, of captions only
    negative: str = ""  # caption of the null branch (Wan's negative prompt)
    bank: str = "one"  # one | two: does the null branch have a bank built with null captions

    @property
    def guided(self) -> bool:
        """True if any chunk has a null branch."""
        return self.scale != 1.0 or self.memory > 0

    @property
    def two_banks(self) -> bool:
        """True if the null branch has a bank of its own; without guidance `bank` does not matter."""
        return self.bank == "two" and self.guided


PROMPT_CHANGES = ("hard", "interpolate", "recache")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What is done where a chunk has another caption than the chunk before it, within one shot.

    hard         the chunk is told the new caption, and the memory stays as it is.
    interpolate  the text states go from what the chunk before was told to the new caption's in equal steps: `chunks`
                 chunks are told something between (`generate.prompt_change`).
    recache      the recent entries are encoded again under the new caption before the chunk is made, from their
                 latents (LongLive's KV recache, arXiv 2509.22622); retrieval finds them by their own captions still.
    """

    change: str = "hard"
    chunks: int = 1  # of interpolate

    def __post_init__(self):
        if self.change not in PROMPT_CHANGES:
            raise UserError(
                f"prompt.change is {self.change!r}; it can be {', '.join(PROMPT_CHANGES)}"
            )
        _check_range(self, "prompt", MAX_LAYERS, "chunks")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The order in which chunks are made, and what each pass sees: a row of `bvjax.policies.POLICIES`.

    A number of 0 is the policy's own; a policy that does not read a field refuses it.
    """

    name: str = "blockvid"
    window: int = 0  # chunks that a chunk sees, or that are in the window at once
    sink: bool = False  # the first entry is seen by all chunks, for good
    top: int = 0  # entries that a query looks at
    lag: int = 0  # steps by which each block of latent frames is behind the block before
    decay: float = 0.0  # share of itself that a sink keeps when it takes in what leaves the window


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything generation needs besides weights, a story and a seed."""

    name: str
    chunk: ChunkConfig = ChunkConfig()
    vae: VAEConfig = VAEConfig()
    text: TextConfig = TextConfig()
    dit: DiTConfig = DiTConfig()
    memory: MemoryConfig = MemoryConfig()
    build: BuildConfig = BuildConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    rope: RopeConfig = RopeConfig()
    noise: NoiseConfig = NoiseConfig()
    levels: ChunkLevelsConfig = ChunkLevelsConfig()
    sampler: SamplerConfig = SamplerConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    prompt: PromptConfig = PromptConfig()
    policy: PolicyConfig = PolicyConfig()

    def __post_init__(self):
        _check_numbers(self)
