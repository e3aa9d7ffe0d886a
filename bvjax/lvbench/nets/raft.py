"""RAFT, the large network (Teed & Deng 2020): optical flow, for the published dynamic degree."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.lvbench.nets import correlation
from bvjax.lvbench.nets.conv import conv, fold_norm, hwio, instance_norm
from bvjax.lvbench.nets.sampling import grid

ITERATIONS = 20
STRIDE = correlation.STRIDE
_BLOCK, _GRU = "update_block.", "update_block.gru."


def shapes(shrink: int = 1, radius: int = 4) -> dict[str, tuple[int, ...]]:
    """Published names and PyTorch's shapes.

    The norm of a shortcut has two names in a checkpoint, `norm3` and `downsample.1`; it stands
    here as `downsample.1` alone.  Counters of batches are left out.

    Args:
        shrink: divides all inner widths, for tests.
        radius: of the correlation windows.
    """
    hidden, features = 128 // shrink, 256 // shrink
    tensor_shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, outputs: int, inputs: int, height: int, width: int | None = None) -> None:
        tensor_shapes[f"{name}.weight"] = (
            outputs,
            inputs,
            height,
            height if width is None else width,
        )
        tensor_shapes[f"{name}.bias"] = (outputs,)

    widths = [64 // shrink, 96 // shrink, 128 // shrink]
    for net, outputs in (("fnet", features), ("cnet", 2 * hidden)):
        add(f"{net}.conv1", widths[0], 3, 7)
        for layer, (before, width) in enumerate(zip(widths[:1] + widths, widths, strict=False), 1):
            for unit, inputs in enumerate((before, width)):
                name = f"{net}.layer{layer}.{unit}"
                add(f"{name}.conv1", width, inputs, 3)
                add(f"{name}.conv2", width, width, 3)
                if layer > 1 and unit == 0:
                    add(f"{name}.downsample.0", width, inputs, 1)
        add(f"{net}.conv2", outputs, widths[-1], 1)
    for kernel, norm in _norms(tensor_shapes).items():
        count = tensor_shapes[f"{kernel}.bias"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensor_shapes[f"{norm}.{part}"] = count

    encoder = _BLOCK + "encoder."
    add(encoder + "convc1", 2 * hidden, correlation.LEVELS * (2 * radius + 1) ** 2, 1)
    add(encoder + "convc2", 192 // shrink, 2 * hidden, 3)
    add(encoder + "convf1", hidden, 2, 7)
    add(encoder + "convf2", 64 // shrink, hidden, 3)
    add(encoder + "conv", hidden - 2, 256 // shrink, 3)
    for step, size in ((1, (1, 5)), (2, (5, 1))):
        for gate in "zrq":
            add(f"{_GRU}conv{gate}{step}", hidden, 3 * hidden, *size)
    add(_BLOCK + "flow_head.conv1", 2 * hidden, hidden, 3)
    add(_BLOCK + "flow_head.conv2", 2, 2 * hidden, 3)
    add(_BLOCK + "mask.0", 2 * hidden, hidden, 3)
    add(_BLOCK + "mask.2", 9 * STRIDE**2, 2 * hidden, 1)
    return tensor_shapes


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters that `flow` takes, from published tensors.

    Batch norms go into the convolutions before them.  The gates' convolutions see the hidden
    state, the context and the motion; their context part, which stays the same over the
    iterations, comes apart, and the two gates that see the same become one.
    """
    tensors = {name: np.asarray(values, np.float32) for name, values in tensors.items()}
    norms, params = _norms(tensors), {}
    for name, kernel in tensors.items():
        if kernel.ndim != 4 or name.startswith(_GRU):
            continue
        layer = name.removesuffix(".weight")
        bias = tensors[f"{layer}.bias"]
        if layer in norms:
            kernel, bias = fold_norm(kernel, bias, tensors, norms[layer])
        params |= {f"{layer}.weight": hwio(kernel), f"{layer}.bias": bias}
    for step in (1, 2):
        kernels = {g: hwio(tensors[f"{_GRU}conv{g}{step}.weight"]) for g in "zrq"}
        hidden = kernels["q"].shape[-1]
        context = slice(hidden, 2 * hidden)
        gate_kernel = np.concatenate([kernels[g] for g in "zrq"], axis=-1)
        without_context = np.delete(gate_kernel, context, axis=2)
        params |= {
            f"{_GRU}context{step}.weight": np.ascontiguousarray(gate_kernel[:, :, context]),
            f"{_GRU}context{step}.bias": np.concatenate(
                [tensors[f"{_GRU}conv{g}{step}.bias"] for g in "zrq"]
            ),
            f"{_GRU}gates{step}.weight": np.ascontiguousarray(without_context[..., : 2 * hidden]),
            f"{_GRU}state{step}.weight": np.ascontiguousarray(without_context[..., 2 * hidden :]),
        }
    return params


def flow(
    params: Mapping[str, Array],
    first: Float[Array, "b h w 3"],
    second: Float[Array, "b h w 3"],
    iterations: int = ITERATIONS,
) -> Float[Array, "b h w 2"]:
    """Returns the displacement (right, down) in pixels of each pixel from `first` to `second`.

    Args:
        first, second: RGB from 0 to 255; both sides multiples of 8 (`conv.pad_to`).  Below 128
            pixels the published network breaks down, as its smallest correlation maps vanish; here
            they count as zeros outside.
    """
    first, second = (2 * (x / 255) - 1 for x in (first, second))
    b, h, w, _ = first.shape
    pair = jnp.stack([first, second], axis=1).reshape(2 * b, h, w, 3)  # rows of a pair together
    features = _encode(params, "fnet", pair, instance_norm)
    features = features.reshape(b, 2, *features.shape[1:])
    radius = _radius(params)
    levels = correlation.pyramid(features[:, 0], features[:, 1], radius)
    state, context = jnp.split(_encode(params, "cnet", first, lambda x: x), 2, axis=-1)
    state, context = jnp.tanh(state), jax.nn.relu(context)
    contexts = [_layer(params, f"{_GRU}context{step}", context) for step in (1, 2)]
    start = grid(*context.shape[1:3])

    def step(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, at = carry
        correlations = correlation.windows(levels, at, radius)
        motion = _motion(params, correlations, at - start)
        state = _update(params, state, motion, contexts)
        change = jax.nn.relu(_layer(params, _BLOCK + "flow_head.conv1", state))
        return state, at + _layer(params, _BLOCK + "flow_head.conv2", change)

    at = jnp.broadcast_to(start, (b, *start.shape))
    state, at = jax.lax.fori_loop(0, iterations, step, (state, at))
    mask = jax.nn.relu(_layer(params, _BLOCK + "mask.0", state))
    return upsample(at - start, 0.25 * _layer(params, _BLOCK + "mask.2", mask))


def upsample(
    coarse: Float[Array, "b h w 2"], mask: Float[Array, "b h w 9*64"]
) -> Float[Array, "b 8*h 8*w 2"]:
    """Each fine flow is a convex combination of the nine coarse ones around it (section 3.3).

    mask: logits; neighbour by neighbour (rows, then columns), each for 8 rows of 8 pixels.
    """
    b, h, w, _ = coarse.shape
    weights = jax.nn.softmax(mask.reshape(b, h, w, 9, STRIDE, STRIDE), axis=3)
    padded = jnp.pad(STRIDE * coarse, ((0, 0), (1, 1), (1, 1), (0, 0)))
    fine = sum(
        weights[:, :, :, 3 * row + column, :, :, None]
        * padded[:, row : row + h, column : column + w, None, None, :]
        for row in range(3)
        for column in range(3)
    )
    return fine.transpose(0, 1, 3, 2, 4, 5).reshape(b, STRIDE * h, STRIDE * w, 2)


def _layer(params: Mapping[str, Array], name: str, x: Array, stride: int = 1) -> Array:
    return conv(x, params[f"{name}.weight"], params[f"{name}.bias"], stride)


def _encode(params: Mapping[str, Array], net: str, x: Array, norm) -> Array:
    """An eighth of the size: a wide convolution and three pairs of residual units."""
    x = jax.nn.relu(norm(_layer(params, f"{net}.conv1", x, 2)))
    for layer in (1, 2, 3):
        for unit in (0, 1):
            name, stride = f"{net}.layer{layer}.{unit}", 2 if layer > 1 and unit == 0 else 1
            y = jax.nn.relu(norm(_layer(params, f"{name}.conv1", x, stride)))
            y = jax.nn.relu(norm(_layer(params, f"{name}.conv2", y)))
            if stride == 2:
                x = norm(_layer(params, f"{name}.downsample.0", x, 2))
            x = jax.nn.relu(x + y)
    return _layer(params, f"{net}.conv2", x)


def _motion(params: Mapping[str, Array], correlations: Array, flow: Array) -> Array:
    """Features of the correlations and the flow so far, and that flow itself."""
    layer = lambda name, x: jax.nn.relu(_layer(params, f"{_BLOCK}encoder.{name}", x))
    correlation_features = layer("convc2", layer("convc1", correlations))
    flow_features = layer("convf2", layer("convf1", flow))
    return jnp.concatenate(
        [layer("conv", jnp.concatenate([correlation_features, flow_features], -1)), flow], -1
    )


def _update(
    params: Mapping[str, Array], state: Array, motion: Array, contexts: list[Array]
) -> Array:
    """A gated recurrent unit along rows, then one along columns."""
    for step, context in enumerate(contexts, 1):
        with_motion = lambda state: jnp.concatenate([state, motion], -1)
        size = 2 * state.shape[-1]
        gates = conv(with_motion(state), params[f"{_GRU}gates{step}.weight"]) + context[..., :size]
        update_gate, reset_gate = jnp.split(jax.nn.sigmoid(gates), 2, -1)
        candidate = conv(with_motion(reset_gate * state), params[f"{_GRU}state{step}.weight"])
        state = (1 - update_gate) * state + update_gate * jnp.tanh(candidate + context[..., size:])
    return state


def _radius(params: Mapping[str, Array]) -> int:
    """Returns the radius of the correlation windows, from the input channels of their first layer."""
    input_channels = params[f"{_BLOCK}encoder.convc1.weight"].shape[2]
    return (math.isqrt(input_channels // correlation.LEVELS) - 1) // 2


def _norms(tensors: Mapping[str, object]) -> dict[str, str]:
    """{convolution: its batch norm} of the context network."""
    norms = {"cnet.conv1": "cnet.norm1"}
    for name in tensors:
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if not name.startswith("cnet.layer") or not name.endswith(".weight"):
            continue
        if part in ("conv1", "conv2"):
            norms[f"{layer}.{part}"] = f"{layer}.norm{part[-1]}"
        elif (layer + "." + part).endswith("downsample.0"):
            norms[f"{layer}.{part}"] = f"{layer}.1"
    return norms
