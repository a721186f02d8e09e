"""Lines before any training: what an architecture's initial weights put into pictures.

Run over many seeds, since one draw of weights says little. Odena et al. 2016
(doi:10.23915/distill.00003) saw such lines; here they have numbers. A kernel whose
length the stride divides does not avoid them: with independent zero-mean weights every
line of a transposed convolution is expected to be as strong as the mean.
"""

from dataclasses import dataclass

import numpy as np

from analysis.checkerboard.meter import cell_powers, families, pnr_db
from analysis.checkerboard.profiles import phase_variance_db
from analysis.checkerboard.spectrum import mean_level, measure
from config.schema import ModelConfig

METHODS = {
    "transpose, 5 taps": ("transpose", 5),
    "transpose, 4 taps": ("transpose", 4),
    "resize-nearest, 5 taps": ("resize-nearest", 5),
    "resize-bilinear, 5 taps": ("resize-bilinear", 5),
    "resize-bicubic, 5 taps": ("resize-bicubic", 5),
    "subpixel, 3 taps": ("subpixel", 3),
    "subpixel-icnr, 3 taps": ("subpixel-icnr", 3),
    "transpose-blur, 5 taps": ("transpose-blur", 5),
    "transpose-balanced, 5 taps": ("transpose-balanced", 5),
}
NUM_SEEDS = 24
NUM_IMAGES = 160
WIDTHS = (64, 32, 16)  # a quarter of the tutorial's


@dataclass(frozen=True)
class Untrained:
    """One number for each seed: float64 (seeds,).

    Attributes:
        pnr_last_db: mean peak-to-neighbourhood ratio of the lines at 1/2.
        pnr_prev_db: of those at 1/4.
        phase_variance_db: see `profiles.phase_variance_db`, period 2.
        probe_last_db: all lines at 1/2 on constant fields, relative to the mean.
    """

    pnr_last_db: np.ndarray
    pnr_prev_db: np.ndarray
    phase_variance_db: np.ndarray
    probe_last_db: np.ndarray


def measure_untrained(method: str, num_seeds: int = NUM_SEEDS) -> Untrained:
    """Measures untrained generators of one of METHODS, seeds 0, 1, ..."""
    rows = [measure_seed(*METHODS[method], seed) for seed in range(num_seeds)]
    return Untrained(*np.array(rows, np.float64).T)


def measure_seed(upsample: str, kernel_size: int, seed: int) -> list[float]:
    """The numbers of `Untrained` for one seed."""
    from analysis.checkerboard.probe import measure_lines
    from analysis.geometry.audit import audit_model, upsamplers
    from gan.models import build_generator

    config = ModelConfig(
        upsample=upsample,
        kernel_size=kernel_size,
        generator_widths=WIDTHS,
        # Keras' slope and Glorot uniform weights, as in TensorFlow's DCGAN tutorial.
        leaky_slope=0.3,
        initializer_stddev=0.0,
        # One pass leaves this batch's statistics for the probe; with those of a fresh
        # layer, 0 and 1, the pictures would be nearly flat.
        batch_norm_momentum=0.0,
    )
    generator = build_generator(config, seed=seed)
    draws = np.random.default_rng(seed).standard_normal
    latents = draws((NUM_IMAGES, config.latent_dim)).astype(np.float32)
    images = np.asarray(generator(latents, training=True))
    spectrum = measure(images, level=mean_level(images))
    pnr = pnr_db(cell_powers(spectrum), spectrum.layout)
    lines = families(spectrum.layout)
    probed = measure_lines(generator, upsamplers(audit_model(generator)), seed=seed)
    return [
        float(pnr[lines[1]].mean()),
        float(pnr[lines[2]].mean()),
        phase_variance_db(spectrum, 2),
        probed[-1]["line_db"],
    ]
