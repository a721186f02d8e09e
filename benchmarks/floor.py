"""A lower bound on the time of a training step: its convolutions and matrix products.

Each layer with a kernel has three products, with equal numbers of multiply-accumulates:
forward, the gradient of the input and the gradient of the kernel. For one batch, a step
needs at least

    generator      forward 1, kernels 1, inputs 1 (not of its first layer)
    discriminator  forward 2 and kernels 2 (real, fake), inputs 2 (of its first layer 1)

because no gradient is needed of the generator's first input, which is noise, and of the
real images. The generator's loss needs the gradients of the discriminator's inputs as
well, and gets them almost free where no layer of the discriminator mixes images: they
equal those of the discriminator's loss times one factor per image. Only the first layer
must compute them once more. Batch normalisation mixes images, so it takes one more pass
for the gradients of all inputs of the discriminator.

Every product is timed in each form that is known here, and the fastest one counts.
Multiply-accumulates are those of the direct form; a product at its frequencies
(`gan.fourier`) needs fewer. The three products of a layer share some of that work, but
only if the layer is timed as a whole.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from analysis.geometry.keras_layers import layer_geometry
from gan import fourier
from gan.convolution import (
    DIRECT,
    FOURIER,
    PHASES,
    fastest_form,
    kernel_gradient,
    transpose_by_phases,
)

Form = tuple[Callable[..., tf.Tensor], tuple[tf.Tensor, ...]]  # function, arguments
FORWARD, INPUT, KERNEL = "forward", "input gradient", "kernel gradient"


@dataclass(frozen=True)
class Product:
    """One product of one layer.

    Attributes:
        network: "G" or "D".
        layer: the Keras layer.
        kind: FORWARD, INPUT or KERNEL.
        count: number of times that a step needs it for one batch.
        macs: multiply-accumulates per image, every tap on every pixel.
        macs_inside: the same without the taps on the zero padding.
    """

    network: str
    layer: Any
    kind: str
    count: int
    macs: int
    macs_inside: int

    @property
    def name(self) -> str:
        """Network, layer and kind."""
        return f"{self.layer_name} {self.kind}"

    @property
    def layer_name(self) -> str:
        """Network and layer."""
        return f"{self.network} {self.layer.name}"


def step_products(generator: keras.Model, discriminator: keras.Model) -> list[Product]:
    """Returns the products that one step needs."""
    products = []
    for network, model in (("G", generator), ("D", discriminator)):
        passes = 1 if network == "G" else 2
        layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
        normalized = any(
            isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers
        )
        mixes_images = network == "D" and normalized
        for layer in layers:
            prediction = layer_geometry(layer, [layer.input.shape])
            macs = inside = prediction.macs
            for axis in prediction.axes:
                inside = inside * axis.macs_exact // axis.macs
            inputs = passes - (layer is layers[0])
            if mixes_images and layer is not layers[0]:
                inputs += 1
            counts = {FORWARD: passes, KERNEL: passes, INPUT: inputs}
            products += [
                Product(network, layer, kind, count, macs, inside)
                for kind, count in counts.items()
                if count
            ]
    return products


def step_macs(products: list[Product], inside: bool = False) -> int:
    """Returns the multiply-accumulates of a step for one image."""
    return sum(p.count * (p.macs_inside if inside else p.macs) for p in products)


def forms(product: Product, batch_size: int) -> dict[str, Form]:
    """Returns the ways to compute a product, with random arguments.

    The first one is the way that this project's step takes. All give the same result.
    """
    layer, kind = product.layer, product.kind
    x = tf.random.normal((batch_size, *layer.input.shape[1:]))
    y = tf.random.normal((batch_size, *layer.output.shape[1:]))
    kernel = tf.random.normal(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        return {"product": dense_form(kind, x, kernel, y)}
    # A transposed convolution is a convolution from its output to its input.
    transposed = isinstance(layer, keras.layers.Conv2DTranspose)
    large, small = (y, x) if transposed else (x, y)
    stride = layer.strides[0]
    if kind == KERNEL:
        ways = kernel_gradient_forms(large, small, kernel, stride)
    elif (kind == FORWARD) != transposed:
        ways = gathering_forms(large, kernel, stride)
    else:
        ways = spreading_forms(small, kernel, large, stride)
    ours = fastest_form(tuple(small.shape[:3]), kernel, stride)
    ours = ours if ours in ways else DIRECT  # phases exist for one kind only
    return {ours: ways[ours]} | ways


def dense_form(kind: str, x: tf.Tensor, kernel: tf.Tensor, y: tf.Tensor) -> Form:
    """A matrix product, with the transpositions of its kind."""
    if kind == FORWARD:
        return tf.matmul, (x, kernel)
    if kind == INPUT:
        return lambda y, kernel: tf.matmul(y, kernel, transpose_b=True), (y, kernel)
    return lambda x, y: tf.matmul(x, y, transpose_a=True), (x, y)


def gathering_forms(
    large: tf.Tensor, kernel: tf.Tensor, stride: int
) -> dict[str, Form]:
    """A convolution from the large map to the small one."""

    def convolve(large: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(large, kernel, stride, "SAME")

    def multiply(large: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        patches = extract(large, kernel.shape[0], stride)
        return tf.tensordot(patches, tf.reshape(kernel, (-1, kernel.shape[-1])), 1)

    def by_frequency(large: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return fourier.convolve(large, kernel, stride)

    ways = {DIRECT: convolve, "patches": multiply, FOURIER: by_frequency}
    return {name: (way, (large, kernel)) for name, way in ways.items()}


def spreading_forms(
    small: tf.Tensor, kernel: tf.Tensor, large: tf.Tensor, stride: int
) -> dict[str, Form]:
    """The transposed convolution from the small map to the large one."""

    def spread(small: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d_transpose(small, kernel, large.shape, stride, "SAME")

    def flipped(small: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        turned = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
        return tf.nn.conv2d(small, turned, 1, "SAME")

    def by_frequency(small: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return fourier.convolve_transposed(small, kernel, stride)

    ways = {DIRECT: spread, FOURIER: by_frequency}
    ways |= {"flipped": flipped} if stride == 1 else {PHASES: transpose_by_phases}
    return {name: (way, (small, kernel)) for name, way in ways.items()}


def kernel_gradient_forms(
    large: tf.Tensor, small: tf.Tensor, kernel: tf.Tensor, stride: int
) -> dict[str, Form]:
    """The gradient of a kernel from both maps."""

    def backprop(large: tf.Tensor, small: tf.Tensor) -> tf.Tensor:
        return kernel_gradient(large, kernel, small, stride)

    def multiply(large: tf.Tensor, small: tf.Tensor) -> tf.Tensor:
        patches = extract(large, kernel.shape[0], stride)
        rows = tf.reshape(patches, (-1, patches.shape[-1]))
        columns = tf.reshape(small, (-1, small.shape[-1]))
        return tf.reshape(tf.matmul(rows, columns, transpose_a=True), kernel.shape)

    def by_frequency(large: tf.Tensor, small: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            result = fourier.convolve(large, kernel, stride)
        return tape.gradient(result, kernel, small)

    ways = {DIRECT: backprop, "patches": multiply, FOURIER: by_frequency}
    return {name: (way, (large, small)) for name, way in ways.items()}


def extract(large: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Returns the pixels under a kernel at each of its positions, as channels."""
    sizes, strides = [1, size, size, 1], [1, stride, stride, 1]
    return tf.image.extract_patches(large, sizes, strides, [1, 1, 1, 1], "SAME")


def compile_forms(
    products: list[Product], batch_size: int
) -> dict[str, dict[str, Callable[[], tf.Tensor]]]:
    """Compiles every form of every product to a function without arguments."""
    return {
        product.name: {
            form: compiled(function, arguments)
            for form, (function, arguments) in forms(product, batch_size).items()
        }
        for product in products
    }


def compile_layers(
    products: list[Product], batch_size: int
) -> dict[str, Callable[[], list[tf.Tensor]]]:
    """Compiles one pass of each layer, all its products together, by `layer_name`."""
    return {
        p.layer_name: compiled(
            whole_pass(p.layer, with_input=needs_input_gradient(p, products)),
            (
                tf.random.normal((batch_size, *p.layer.input.shape[1:])),
                tf.random.normal((batch_size, *p.layer.output.shape[1:])),
            ),
        )
        for p in products
        if p.kind == FORWARD
    }


def needs_input_gradient(forward: Product, products: list[Product]) -> bool:
    """Whether each pass of a layer needs the gradient of its input."""
    counts = [p.count for p in products if (p.layer, p.kind) == (forward.layer, INPUT)]
    return any(count >= forward.count for count in counts)


def whole_pass(layer: Any, with_input: bool) -> Callable[..., list[tf.Tensor]]:
    """Computes outputs, the kernel's gradient and, if asked for, the input's."""

    def run(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        sources = [layer.kernel.value, x] if with_input else [layer.kernel.value]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = layer(x)
        return [outputs, *tape.gradient(outputs, sources, y)]

    return run


def compiled(
    function: Callable[..., Any], arguments: tuple[tf.Tensor, ...]
) -> Callable[[], Any]:
    """Compiles a function; its arguments are no constants, which would be folded."""
    concrete = tf.function(lambda *args: function(*args)).get_concrete_function(
        *arguments
    )
    return lambda: concrete(*arguments)


def seconds_per_call(function: Callable[[], Any], num_calls: int) -> float:
    """Returns the mean wall time; reads one scalar at the end to wait for a GPU."""
    start = time.perf_counter()
    for _ in range(num_calls):
        result = function()
    tf.reshape(tf.nest.flatten(result)[0], (-1,))[0].numpy()
    return (time.perf_counter() - start) / num_calls


def product_rate(size: int, num_calls: int) -> Callable[[int], float]:
    """Returns a function that measures multiply-accumulates a second at a product."""
    a, b = tf.random.normal((size, size)), tf.random.normal((size, size))
    function = compiled(tf.matmul, (a, b))
    return lambda _: size**3 / seconds_per_call(function, num_calls)


def seconds_of_products(
    products: list[Product], seconds: dict[str, dict[str, float]]
) -> float:
    """Returns the time of all products of a step, each in its fastest form.

    Args:
        products: the result of `step_products`.
        seconds: seconds of one call, by product and form.
    """
    return math.fsum(p.count * min(seconds[p.name].values()) for p in products)


def seconds_of_layers(products: list[Product], seconds: dict[str, float]) -> float:
    """Returns the time of all layers with kernels in a step.

    Args:
        products: the result of `step_products`.
        seconds: seconds of one pass by layer, see `compile_layers`.
    """
    passes = [p for p in products if p.kind == FORWARD]
    return math.fsum(p.count * seconds[p.layer_name] for p in passes)
