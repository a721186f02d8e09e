"""The registry of upsampling methods: the independent variable of every experiment.

The flags, the settings, the audit, the study and the table of docs/method.md read it. A
new method is one entry here and one function of its name in `gan.upsampling`, with `_`
for `-`. Nothing else has to be changed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Upsampler:
    """One method of doubling height and width.

    `cost` is the multiply-accumulates for one pixel of the input map, with the kernel
    size k in taps and C and C' channels before and after. `artifacts` says what the
    operation can cause before training, in cycles per pixel of the images.
    """

    operation: str
    cost: str
    artifacts: str
    aliases: tuple[str, ...] = ()


UPSAMPLERS = {
    "transpose": Upsampler(
        "transposed convolution of stride 2",
        "k² C C'",
        "lines at 1/2 and 1/4 from unequal phase gains; odd k: uneven overlap, half a "
        "pixel of shift",
    ),
    "transpose-blur": Upsampler(
        "transposed convolution, then a fixed [1, 2, 1] / 4 along both axes",
        "k² C C' + 36 C'",
        "no line at 1/2, a double zero there",
    ),
    "transpose-fir": Upsampler(
        "transposed convolution, then a fixed [1, 3, 3, 1] / 8 along both axes",
        "k² C C' + 64 C'",
        "no line at 1/2, a triple zero there; half a pixel of shift, which cancels "
        "that of odd k",
    ),
    "transpose-balanced": Upsampler(
        "transposed convolution, kernels projected on equal phase gains at every step",
        "k² C C'",
        "no line; odd k: a variance that depends on the phase",
    ),
    "transpose-penalized": Upsampler(
        "transposed convolution, power of the lines in the loss",
        "k² C C'",
        "lines that shrink in training",
    ),
    "resize-nearest": Upsampler(
        "nearest interpolation, then a convolution",
        "4 k² C C'",
        "no line, a notch at 1/2",
        aliases=("resize",),
    ),
    "resize-nearest-reflect": Upsampler(
        "nearest interpolation, reflection at the borders, then a convolution",
        "4 k² C C', on a map with k / 2 px (rounded down) more at each border",
        "no line, a notch at 1/2",
    ),
    "resize-bilinear": Upsampler(
        "bilinear interpolation, then a convolution",
        "4 k² C C'",
        "no line, a deeper low-pass",
    ),
    "resize-bicubic": Upsampler(
        "bicubic interpolation, then a convolution",
        "4 k² C C'",
        "no line, a milder low-pass with slight ringing",
    ),
    "subpixel": Upsampler(
        "convolution to 4 C' channels, depth to space",
        "4 k² C C'",
        "lines at 1/2 and 1/4, as of a transposed convolution with 2 k taps",
    ),
    "subpixel-icnr": Upsampler(
        "the sub-pixel convolution with four equal phases before training",
        "4 k² C C'",
        "no line before training, any line after it",
    ),
    "subpixel-icnr-blur": Upsampler(
        "`subpixel-icnr`, then a fixed [1, 1] / 2 along both axes",
        "4 k² C C' + 16 C'",
        "no line at 1/2, a zero there; half a pixel of shift",
    ),
}
UPSAMPLER_ALIASES = {
    alias: name for name, entry in UPSAMPLERS.items() for alias in entry.aliases
}
