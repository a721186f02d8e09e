"""The catalogue of x2 upsamplers: the independent variable of every experiment.

Each builder takes (batch, height, width, channels) to (batch, 2 height, 2 width,
filters) and differs from the others in nothing else. Odena, Dumoulin and Olah 2016
(doi:10.23915/distill.00003) name the artifacts; the `expected` column says which one a
method can cause before any training. Adding a method is one builder and one row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import layers


@dataclass(frozen=True)
class Upsampler:
    """One row of the catalogue.

    Attributes:
        build: (x, filters, kernel_size, name, **options) -> x2 tensor; `options` are
            the keyword arguments of the one convolution that learns.
        expected: the artifact that the operator allows, in words.
    """

    build: Callable[..., Any]
    expected: str


def transpose(x: Any, filters: int, kernel_size: int, name: str, **options: Any) -> Any:
    """Transposed convolution of stride 2, `same` padding."""
    return layers.Conv2DTranspose(
        filters, kernel_size, strides=2, padding="same", name=name, **options
    )(x)


def resize(interpolation: str) -> Callable[..., Any]:
    """Makes the builder of interpolation by 2 followed by a stride-1 convolution."""

    def build(x: Any, filters: int, kernel_size: int, name: str, **options: Any) -> Any:
        x = layers.UpSampling2D(
            2,
            interpolation=interpolation,
            name=f"{name}_resize",
            dtype=options["dtype"],
        )(x)
        return layers.Conv2D(
            filters, kernel_size, padding="same", name=f"{name}_conv", **options
        )(x)

    return build


CATALOGUE = {
    "transpose": Upsampler(
        transpose,
        "lines at 1/2 and 1/4 from phase gains that differ; odd kernels "
        "also overlap unevenly and drift by half a pixel",
    ),
    "resize-nearest": Upsampler(resize("nearest"), "a notch at 1/2, no line"),
    "resize-bilinear": Upsampler(resize("bilinear"), "a deeper low-pass, no line"),
}
