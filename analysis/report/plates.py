"""The figures of a report, each with the words that belong to it."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from analysis.checkerboard import usual_meters
from analysis.checkerboard.measurement import NUM_EXAMPLES
from analysis.report import comparison_figures, figures
from analysis.report.comparison import Subject
from analysis.report.comparison_figures import render
from analysis.report.figures import Images
from analysis.samples import Samples, halves


@dataclass(frozen=True)
class Plate:
    """One figure of the page.

    Attributes:
        name: of its files.
        draw: makes it, in the colours of the current theme.
        alt: what it shows, for those who cannot see it.
        caption: what to look for.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    def source(self, theme: str) -> str:
        """The figure as a URL that holds it."""
        data = base64.b64encode(render(self.draw, "svg", theme)).decode()
        return f"data:image/svg+xml;base64,{data}"

    def save(self, folder: Path) -> None:
        """Writes NAME.png and NAME.svg, for a light page."""
        for form in ("png", "svg"):
            path = folder / f"{self.name}.{form}"
            path.write_bytes(render(self.draw, form))


def sample_plates(subjects: Sequence[Subject], real: Samples) -> list[Plate]:
    """The images themselves."""
    images = {"real": real.images_uint8[:NUM_EXAMPLES]}
    images |= {s.label: s.measurement.arrays["examples"] for s in subjects}
    means = {"real": halves(real.images_uint8)[0].mean(axis=(0, 3))}
    means |= {s.label: s.measurement.arrays["pixel_mean"] for s in subjects}
    layout = subjects[0].measurement.layout
    names = " and ".join(images)
    return [
        Plate(
            "samples",
            partial(figures.draw_samples, images),
            f"Sixteen images each of: {names}.",
            "Sixteen images of each set, the first ones, not chosen.",
        ),
        Plate(
            "patterns",
            partial(figures.draw_patterns, images, means, layout),
            f"Two magnified images each of {names}, each beside the part of it that "
            "repeats every 2 or 4 pixels.",
            "Two images of each set magnified, and beside each the part of it that "
            "repeats every 2 or 4 pixels, made stronger as written; grey is zero. "
            "Edges leave something there in real images, too. On the right: the same "
            "of the mean of all images, which keeps what they have in common.",
        ),
    ]


def number_plates(subjects: Sequence[Subject]) -> list[Plate]:
    """Amplitudes, lines, predictions, spectra."""
    alone = comparison_figures.draw_alone
    rows = len(subjects) * len(subjects[0].measurement.layout.lines)
    plates = [
        Plate(
            "amplitudes",
            partial(alone, comparison_figures.plot_amplitudes, subjects, 2.4),
            "Amplitudes with 95 % intervals; the table above has the numbers.",
            "Points: the amplitude of the pattern. Whiskers: 95 % interval. Grey: what "
            "this number of images cannot tell from no pattern.",
        ),
        Plate(
            "lines",
            partial(alone, comparison_figures.plot_forest, subjects, 1.6 + 0.16 * rows),
            "Delta PNR of every line with 95 % intervals; the table below has the "
            "numbers.",
            "One row a frequency, in cycles per pixel; above the dotted line those of "
            "the last upsampling. Right of zero: a tone that real images lack. Left: a "
            "notch, the frequency is weaker than in real images. Grey: what two sets "
            "of real images differ by.",
        ),
    ]
    if any(subject.predicted for subject in subjects):
        plates.append(
            Plate(
                "predictions",
                partial(alone, comparison_figures.plot_predictions, subjects, 4.4),
                "Measured against predicted amplitudes with a line of identity.",
                "On the line, a prediction was right. Geometry: all taps of a kernel "
                "equal. Weights: the real kernels, what is not linear replaced by its "
                "mean slope. Probe: the real layers on flat fields. A measured value "
                "below zero says that real images have more at these frequencies.",
            )
        )
    limits = figures.spectrum_limits(subjects)
    for number, subject in enumerate(subjects, start=1):
        plates.append(
            Plate(
                f"spectra-{number}",
                partial(figures.draw_spectrum, subject, limits),
                f"Mean spectra of real images and of {subject.label}, their ratio, and "
                "a cut along the diagonal.",
                f"{subject.label}. Squares mark the lines of the last upsampling, "
                "circles those of the one before. Red in the ratio: stronger than in "
                "real images; a single red dot inside a mark is a checkerboard.",
            )
        )
    return plates


def usual_plates(images: Images) -> list[Plate]:
    """What other meters would have shown of the same images, the real ones first."""
    usual = next(iter(images.values()))
    profiles = {k: usual_meters.azimuthal_profiles(v) for k, v in images.items()}
    maps = {
        k: usual_meters.smoothed(usual_meters.whitened_map_db(v, usual))
        for k, v in images.items()
    }
    return [
        Plate(
            "usual-profiles",
            partial(figures.draw_profiles, profiles),
            "Azimuthal profiles of real and generated images.",
            "The azimuthal profile (method of Durall et al. 2020): mean and standard "
            "deviation over images. The corner of the spectrum, where a checkerboard "
            "is, belongs to no ring.",
        ),
        Plate(
            "usual-maps",
            partial(figures.draw_maps, maps),
            "Smoothed spectral maps of real and generated images.",
            "The spectral map (method of Karras et al. 2021): smoothing spreads a line "
            "over its neighbours; there is no number and no interval.",
        ),
    ]
