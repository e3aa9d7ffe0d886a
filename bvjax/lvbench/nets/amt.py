"""AMT-S (Li et al. 2023): the frame between two frames, for the published motion smoothness."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.lvbench.nets import correlation
from bvjax.lvbench.nets.conv import conv, doubling, doubling_kernel, hwio, instance_norm, prelu
from bvjax.lvbench.nets.resize import resize
from bvjax.lvbench.nets.sampling import grid, warp

MULTIPLE = 16  # that both sides of a picture must be of
_RADIUS = 3  # of the correlation windows
_FLOWS = 3  # flows a pixel in each direction
_SIDE = 20  # channels that a decoder's unit refines apart
_LEAK = 0.1


def shapes(
    channels: tuple[int, int, int, int] = (20, 32, 44, 56),
    feature_widths: tuple[int, int, int] = (32, 64, 96),
    features: int = 84,
    update: tuple[int, int, int, int] = (64, 20, 68, 76),
    side: int = _SIDE,
) -> dict[str, tuple[int, ...]]:
    """Published names and PyTorch's shapes.

    Args:
        channels: of the pyramid at 1/2, 1/4, 1/8 and 1/16 of the size.
        feature_widths, features: inside and out of the encoder whose outputs are correlated.
        update: channels of correlations, flow, both together, and inside of the updates.
        side: channels that a decoder's unit refines apart; `interpolate` knows `_SIDE` only.
    """
    tensor_shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, outputs: int, inputs: int, size: int, slope: str = "") -> None:
        tensor_shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        tensor_shapes[f"{name}.bias"] = (outputs,)
        if slope:
            tensor_shapes[f"{slope}.weight"] = (outputs,)

    def unit(name: str, outputs: int, inputs: int) -> None:
        add(f"{name}.0", outputs, inputs, 3, f"{name}.1")

    add("feat_encoder.conv1", feature_widths[0], 3, 7)
    before = feature_widths[0]
    for layer, width in enumerate(feature_widths, 1):
        for i, inputs in enumerate((before, width)):
            name = f"feat_encoder.layer{layer}.{i}"
            add(f"{name}.conv1", width // 4, inputs, 1)
            add(f"{name}.conv2", width // 4, width // 4, 3)
            add(f"{name}.conv3", width, width // 4, 1)
            if layer > 1 and i == 0:
                add(f"{name}.downsample.0", width, inputs, 1)
        before = width
    add("feat_encoder.conv2", features, before, 1)

    for level, (inputs, width) in enumerate(zip((3, *channels), channels, strict=False), 1):
        unit(f"encoder.pyramid{level}.0", width, inputs)
        unit(f"encoder.pyramid{level}.1", width, width)

    for level in (4, 3, 2, 1):
        width = channels[level - 1] * (2 if level == 4 else 3)
        name = f"decoder{level}.convblock"
        unit(f"{name}.0", width, width + (1 if level == 4 else 4))
        for i, hidden_width in ((1, width), (2, side), (3, width), (4, side)):
            unit(f"{name}.1.conv{i}", hidden_width, hidden_width)
        add(f"{name}.1.conv5", width, width, 3, f"{name}.1.prelu")
        outputs = 4 + channels[level - 2] if level > 1 else 8 * _FLOWS
        tensor_shapes[f"{name}.2.weight"] = (width, outputs, 4, 4)  # transposed: inputs first
        tensor_shapes[f"{name}.2.bias"] = (outputs,)

    correlation_width, flow_width, motion_width, hidden_width = update
    for level in (4, 3, 2):
        name, outputs = f"update{level}", channels[level - 2]
        add(f"{name}.convc1", correlation_width, 2 * correlation.LEVELS * (2 * _RADIUS + 1) ** 2, 1)
        add(f"{name}.convf1", 2 * flow_width, 4, 7)
        add(f"{name}.convf2", flow_width, 2 * flow_width, 3)
        add(f"{name}.conv", motion_width, correlation_width + flow_width, 3)
        for head, ins, outs in (
            ("gru", motion_width + 4 + outputs, hidden_width),
            ("feat_head", hidden_width, outputs),
            ("flow_head", hidden_width, 4),
        ):
            add(f"{name}.{head}.0", hidden_width, ins, 3)
            add(f"{name}.{head}.2", outs, hidden_width, 3)
    add("comb_block.0", 6 * _FLOWS, 3 * _FLOWS, 3, "comb_block.1")
    add("comb_block.2", 3, 6 * _FLOWS, 3)
    return tensor_shapes


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters that `interpolate` takes, from published tensors."""
    params = {}
    for name, values in tensors.items():
        values = np.asarray(values, np.float32)
        if values.ndim == 4:
            transposed = name.endswith("convblock.2.weight")
            values = doubling_kernel(values) if transposed else hwio(values)
        params[name] = values
    return params


def interpolate(
    params: Mapping[str, Array],
    first: Float[Array, "b h w 3"],
    second: Float[Array, "b h w 3"],
    time: float = 0.5,
) -> Float[Array, "b h w 3"]:
    """The frame at `time`, between `first` (0) and `second` (1); RGB from 0 to 1, as given.

    Both sides must be multiples of 16 (`conv.pad_to`).  Below 128 pixels the published network
    breaks down, as its smallest correlation maps vanish; here they count as zeros outside.
    """
    b, h, w, _ = first.shape
    pair = jnp.stack([first, second], axis=1)  # rows of a pair together
    mean = pair.mean(4).mean(3).mean(2).mean(1).reshape(b, 1, 1, 1)
    pair = (pair - mean[:, None]).reshape(2 * b, h, w, 3)
    split_pair = lambda x: jnp.moveaxis(x.reshape(b, 2, *x.shape[1:]), 1, 0)
    f0, f1 = split_pair(_features(params, pair))
    lookup = tuple(correlation.pyramid(*maps, _RADIUS) for maps in ((f0, f1), (f1, f0)))
    feature_maps = [split_pair(x) for x in _pyramid(params, pair)]

    flow, content = None, None
    for level in (4, 3, 2):
        flow, content = _decode(params, level, feature_maps[level - 1], flow, content, time)
        change = _correlation_update(params, level, flow, content, lookup, time)
        flow, content = flow + change[0], content + change[1]
    out = _block(params, 1, _warped_content(feature_maps[0], flow, content))
    ends = np.cumsum([2 * _FLOWS, 2 * _FLOWS, _FLOWS])
    *changes, mask, residual = jnp.split(out, ends, axis=-1)
    flows = [
        change + jnp.tile(_upscaled_flow(part), _FLOWS)
        for change, part in zip(changes, jnp.split(flow, 2, -1), strict=True)
    ]
    return jnp.clip(
        _merge(params, split_pair(pair), flows, jax.nn.sigmoid(mask), residual, mean), 0, 1
    )


def _merge(
    params: Mapping[str, Array],
    pictures: Float[Array, "2 b h w 3"],
    flows: list[Float[Array, "b h w 2*n"]],
    mask: Float[Array, "b h w n"],
    residual: Float[Array, "b h w 3*n"],
    mean: Float[Array, "b 1 1 1"],
) -> Float[Array, "b h w 3"]:
    """The mean of n guesses, each a mix of both pictures warped, and what is seen in all of them."""
    guesses = []
    for i in range(_FLOWS):
        pair = slice(2 * i, 2 * i + 2)
        from_first, from_second = (
            warp(picture, flow[..., pair]) for picture, flow in zip(pictures, flows, strict=True)
        )
        blend_mask = mask[..., i : i + 1]
        guesses.append(
            blend_mask * from_first
            + (1 - blend_mask) * from_second
            + mean
            + residual[..., 3 * i : 3 * i + 3]
        )
    x = prelu(
        _layer(params, "comb_block.0", jnp.concatenate(guesses, -1)), params["comb_block.1.weight"]
    )
    return sum(guesses) / _FLOWS + _layer(params, "comb_block.2", x)


def _layer(params: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    return conv(x, params[f"{name}.weight"], params[f"{name}.bias"], stride)


def _unit(params: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    return prelu(_layer(params, f"{name}.0", x, stride), params[f"{name}.1.weight"])


def _features(params: Mapping[str, Array], x: Array) -> Array:
    """The features that are correlated, at 1/8 of the size."""
    normed = lambda name, x, stride=1: instance_norm(
        _layer(params, f"feat_encoder.{name}", x, stride)
    )
    x = jax.nn.relu(normed("conv1", x, 2))
    for layer in (1, 2, 3):
        for i in (0, 1):
            name, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            y = jax.nn.relu(normed(f"{name}.conv1", x))
            y = jax.nn.relu(normed(f"{name}.conv2", y, stride))
            y = jax.nn.relu(normed(f"{name}.conv3", y))
            if stride == 2:
                x = normed(f"{name}.downsample.0", x, 2)
            x = jax.nn.relu(x + y)
    return _layer(params, "feat_encoder.conv2", x)


def _pyramid(params: Mapping[str, Array], x: Array) -> list[Array]:
    """Contents at 1/2, 1/4, 1/8 and 1/16 of the size."""
    out = []
    for level in (1, 2, 3, 4):
        x = _unit(params, f"encoder.pyramid{level}.0", x, 2)
        x = _unit(params, f"encoder.pyramid{level}.1", x)
        out.append(x)
    return out


def _decode(
    params: Mapping[str, Array],
    level: int,
    maps: Float[Array, "2 b h w c"],
    flow: Float[Array, "b h w 4"] | None,
    content: Array | None,
    time: float,
) -> tuple[Float[Array, "b 2*h 2*w 4"], Array]:
    """Flows to both pictures and the content between them, at twice the size."""
    if flow is None:
        times = jnp.full((*maps.shape[1:4], 1), time, maps.dtype)
        out = _block(params, level, jnp.concatenate([*maps, times], -1))
        return out[..., :4], out[..., 4:]
    out = _block(params, level, _warped_content(maps, flow, content))
    return out[..., :4] + _upscaled_flow(flow), out[..., 4:]


def _warped_content(maps: Float[Array, "2 b h w c"], flow: Array, content: Array) -> Array:
    """Content, and both maps where the flows say that it comes from."""
    warped = [warp(x, part) for x, part in zip(maps, jnp.split(flow, 2, -1), strict=True)]
    return jnp.concatenate([content, *warped, flow], -1)


def _block(params: Mapping[str, Array], level: int, x: Array) -> Array:
    """A residual unit of which the last channels are refined twice more; then twice the size."""
    name = f"decoder{level}.convblock"
    x = _unit(params, f"{name}.0", x)
    y = x
    for full_conv, side_conv in (("conv1", "conv2"), ("conv3", "conv4")):
        y = _unit(params, f"{name}.1.{full_conv}", y)
        refined = _unit(params, f"{name}.1.{side_conv}", y[..., -_SIDE:])
        y = jnp.concatenate([y[..., :-_SIDE], refined], -1)
    x = prelu(x + _layer(params, f"{name}.1.conv5", y), params[f"{name}.1.prelu.weight"])
    return doubling(x, params[f"{name}.2.weight"], params[f"{name}.2.bias"])


def _correlation_update(
    params: Mapping[str, Array],
    level: int,
    flow: Float[Array, "b h w 4"],
    content: Float[Array, "b h w c"],
    lookup: tuple[list[Array], ...],
    time: float,
) -> tuple[Float[Array, "b h w 4"], Float[Array, "b h w c"]]:
    """Returns the updates of flows and content, from the correlations along the flows.

    All is done at 1/8 of the picture's size.  Motion is taken to be steady, so that the flow from
    `time` to the second picture gives that from the first to the second, and vice versa.
    """
    name, factor = f"update{level}", 2 ** (4 - level)
    if factor > 1:
        flow, content = _downscaled(flow, factor) / factor, _downscaled(content, factor)
    pixel_grid = grid(*flow.shape[1:3])
    to_first, to_second = jnp.split(flow, 2, -1)
    positions = (pixel_grid + to_second / time, pixel_grid + to_first / (1 - time))
    correlations = [
        correlation.windows(x, at, _RADIUS) for x, at in zip(lookup, positions, strict=True)
    ]
    layer = lambda part, x: _layer(params, f"{name}.{part}", x)
    leaky = lambda part, x: jax.nn.leaky_relu(layer(part, x), _LEAK)
    correlation_features = leaky("convc1", jnp.concatenate(correlations, -1))
    flow_features = leaky("convf2", leaky("convf1", flow))
    x = leaky("conv", jnp.concatenate([correlation_features, flow_features], -1))
    x = layer("gru.2", leaky("gru.0", jnp.concatenate([x, flow, content], -1)))
    flow_change = layer("flow_head.2", leaky("flow_head.0", x))
    content_change = layer("feat_head.2", leaky("feat_head.0", x))
    if factor > 1:
        return factor * _scaled(flow_change, factor), _scaled(content_change, factor)
    return flow_change, content_change


def _scaled(x: Array, factor: float) -> Array:
    return resize(x, (int(x.shape[1] * factor), int(x.shape[2] * factor)), "bilinear")


def _downscaled(x: Array, factor: int) -> Array:
    return _scaled(x, 1 / factor)


def _upscaled_flow(flow: Array) -> Array:
    """A flow at twice the size, in pixels of that size."""
    return 2 * _scaled(flow, 2)
