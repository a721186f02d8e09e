"""What `train.py` plugs into the loop: checkerboard numbers while training goes on.

Observers look and never feed back. Samples are few here, so intervals are wide; the
band of real images against real images says what is no artifact. For results use
`python -m analysis spectra`.
"""

from typing import Any

import keras
import numpy as np

from analysis.checkerboard.figures import draw_spectra
from analysis.checkerboard.kernels import imbalance
from analysis.checkerboard.meter import (
    NUM_RESAMPLES,
    cell_powers,
    families,
    pnr_db,
    signed_root,
    squared_amplitudes,
)
from analysis.checkerboard.spectrum import mean_level, measure
from analysis.figures import to_pixels
from analysis.statistics import bootstrap_means
from gan.evaluation import Observation

FAMILIES = {1: "last", 2: "prev"}


class SpectrumObserver:
    """Amplitudes, delta PNR with its null band, kernel imbalance, and a picture."""

    def __init__(
        self,
        real_images_uint8: np.ndarray,
        *,
        num_images: int = 512,
        picture_every: int = 4,
        seed: int = 0,
    ) -> None:
        """Measures the real images once.

        Args:
            real_images_uint8: uint8 (N, H, W, C), N larger than `num_images`.
            num_images: samples wanted at each evaluation.
            picture_every: evaluations from one picture to the next.
            seed: of the draws that make the band.

        Raises:
            ValueError: if every image is constant, which has no spectrum.
        """
        if not np.ptp(real_images_uint8, axis=(1, 2)).any():
            raise ValueError("every real image is constant, expected pictures")
        self.num_images = num_images
        self.picture_every = picture_every
        self.num_observed = 0
        self.level = mean_level(real_images_uint8)
        self.real = measure(real_images_uint8, level=self.level)
        self.real_powers = cell_powers(self.real)
        self.real_pnr = pnr_db(self.real_powers, self.real.layout)
        self.families = families(self.real.layout)
        self.bands = self._bands(seed)

    def _bands(self, seed: int) -> dict[str, float]:
        """95 % of what `num_images` real images would show as mean delta PNR."""
        rows = self.real.rows
        # Beyond spectra.MAX_ROWS images a row sums several.
        num_rows = max(1, round(self.num_images / rows[:, -1].mean()))
        powers = bootstrap_means(rows, NUM_RESAMPLES, seed, num_rows)
        delta = pnr_db(powers, self.real.layout) - self.real_pnr
        bands = {}
        for layer, name in FAMILIES.items():
            limits = np.quantile(
                delta[:, self.families[layer]].mean(axis=1), [0.025, 0.975]
            )
            bands[f"spectrum/real_band_{name}_low_db"] = float(limits[0])
            bands[f"spectrum/real_band_{name}_high_db"] = float(limits[1])
        return bands

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns scalars, and every `picture_every` times the spectrum.

        Args:
            step: number of finished steps.
            images_uint8: uint8 (num_images, H, W, C).
            state: its `ema_generator` made the images.
        """
        layout = self.real.layout
        spectrum = measure(images_uint8, level=self.level)
        powers = cell_powers(spectrum)
        squares = squared_amplitudes(powers, self.real_powers, layout)
        delta = pnr_db(powers, layout) - self.real_pnr
        scalars = dict(self.bands)
        for layer, name in FAMILIES.items():
            amplitude = signed_root(squares[self.families[layer]].sum())
            scalars[f"spectrum/a_{name}_grey_levels"] = float(amplitude)
            mean = delta[self.families[layer]].mean()
            scalars[f"spectrum/delta_pnr_{name}_db"] = float(mean)
        scalars |= imbalances(state.ema_generator)
        pictures = {}
        if self.num_observed % self.picture_every == 0:
            title = f"step {step}, {len(images_uint8)} samples"
            figure = draw_spectra(spectrum.power, self.real.power, layout, title)
            pictures["spectrum"] = to_pixels(figure)
        self.num_observed += 1
        return Observation(scalars, pictures)


def imbalances(generator: keras.Model) -> dict[str, float]:
    """Imbalance index of each transposed convolution with a stride: 0 means no line."""
    return {
        f"eta/{layer.name}": imbalance(np.asarray(layer.kernel), layer.strides)
        for layer in generator.layers
        if isinstance(layer, keras.layers.Conv2DTranspose) and max(layer.strides) > 1
    }
