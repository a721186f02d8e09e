"""PyTorch's DCGAN example, written anew, as a worker or to train for some steps.

    python -m benchmarks.rival_torch IMAGES.npz tutorial|dcgan64 BATCH_SIZE cpu|gpu
    python -m benchmarks.rival_torch IMAGES.npz dcgan64 64 cpu STEPS SEED SAMPLES.npy

The loop is that of the example: the discriminator learns from real and from generated
images, then the generator from a third pass. The network is that of TensorFlow's
tutorial for 28x28 images, or the example's own for 64x64 colour images. The second
form saves 3,000 samples. The file needs only PyTorch and NumPy, so that the Python of
another environment can run it.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.worker import answer, serve

try:
    import torch
    from torch import nn
except ImportError:
    answer({"error": f"no PyTorch in {sys.executable}"})
    sys.exit()

LATENT_DIM = 100
SLOPE = 0.3


def build_generator(network: str = "tutorial") -> nn.Sequential:
    """Latents (batch, 100) to images (batch, 1, 28, 28) or (batch, 3, 64, 64)."""
    if network == "dcgan64":
        stages: list[nn.Module] = []
        for width in (256, 128, 64):
            stages += [
                nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(
            nn.Unflatten(1, (LATENT_DIM, 1, 1)),
            nn.ConvTranspose2d(LATENT_DIM, 512, 4, bias=False),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            *stages,
            nn.ConvTranspose2d(64, 3, 4, 2, padding=1, bias=False),
            nn.Tanh(),
        )
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 7 * 7 * 256, bias=False),
        nn.BatchNorm1d(7 * 7 * 256),
        nn.LeakyReLU(SLOPE),
        nn.Unflatten(1, (256, 7, 7)),
        nn.ConvTranspose2d(256, 128, 5, padding=2, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(SLOPE),
        nn.ConvTranspose2d(128, 64, 5, 2, padding=2, output_padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(SLOPE),
        nn.ConvTranspose2d(64, 1, 5, 2, padding=2, output_padding=1, bias=False),
        nn.Tanh(),
    )


def build_discriminator(network: str = "tutorial") -> nn.Sequential:
    """Images (batch, 1, 28, 28) or (batch, 3, 64, 64) to logits (batch, 1)."""
    if network == "dcgan64":
        stages: list[nn.Module] = []
        for width in (128, 256, 512):
            stages += [
                nn.Conv2d(width // 2, width, 4, 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        return nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            *stages,
            nn.Conv2d(512, 1, 4, bias=False),
            nn.Flatten(),
        )
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, 2, padding=2),
        nn.LeakyReLU(SLOPE),
        nn.Dropout(0.3),
        nn.Conv2d(64, 128, 5, 2, padding=2),
        nn.LeakyReLU(SLOPE),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(7 * 7 * 128, 1),
    )


def initialize(layer: nn.Module) -> None:
    """Sets the example's initial weights, of standard deviation 0.02."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def batches(images_uint8: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    """Yields shuffled batches of images in [-1, 1] without end."""
    channels_first = np.moveaxis(images_uint8, -1, 1)
    images = torch.from_numpy(channels_first).float() / 127.5 - 1
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images),
        batch_size,
        shuffle=True,
        drop_last=True,
    )
    while True:
        for (batch,) in loader:
            yield batch


def example_loop(
    images_uint8: np.ndarray, network: str, batch_size: int, device: str = "cpu"
) -> tuple[Callable[[int], None], nn.Module]:
    """Returns the generator, and a function that trains it for a number of steps.

    Args:
        images_uint8: (N, height, width, channels).
        network: "tutorial" or "dcgan64".
        batch_size: number of images of a step.
        device: "cpu" or "cuda".
    """
    generator = build_generator(network).apply(initialize).to(device)
    discriminator = build_discriminator(network).apply(initialize).to(device)
    rates: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
    g_optimizer = torch.optim.Adam(generator.parameters(), **rates)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **rates)
    entropy = nn.BCEWithLogitsLoss()
    real_labels = torch.ones(batch_size, 1, device=device)
    fake_labels = torch.zeros(batch_size, 1, device=device)
    stream = batches(images_uint8, batch_size)

    def step() -> torch.Tensor:
        discriminator.zero_grad()
        real_images = next(stream).to(device)
        entropy(discriminator(real_images), real_labels).backward()
        fake_images = generator(torch.randn(batch_size, LATENT_DIM, device=device))
        entropy(discriminator(fake_images.detach()), fake_labels).backward()
        d_optimizer.step()

        generator.zero_grad()
        g_loss = entropy(discriminator(fake_images), real_labels)
        g_loss.backward()
        g_optimizer.step()
        return g_loss

    def burst(num_steps: int) -> None:
        for _ in range(num_steps):
            loss = step()
        loss.item()  # waits for a GPU

    return burst, generator


@torch.no_grad()
def sample(generator: nn.Module, num_images: int) -> np.ndarray:
    """Returns samples, uint8 (num_images, height, width, channels).

    As in the example, they come in batches of 64 from a generator in training mode.
    """
    parts = torch.randn(num_images, LATENT_DIM).split(64)
    images = torch.cat([generator(part) for part in parts]).numpy()
    images = np.clip(np.rint(images * 127.5 + 127.5), 0, 255).astype(np.uint8)
    return np.moveaxis(images, 1, -1)


def main() -> None:
    """Reads the arguments and answers the parent process."""
    file, network, batch_size, device, *rest = sys.argv[1:]
    with np.load(file, allow_pickle=False) as arrays:
        if network == "dcgan64":
            # The default set of this project: emoji without variants of skin tone.
            images_uint8 = arrays["images"][~arrays["skin_tones"]]
        else:
            images_uint8 = arrays["train_images"][..., None]
    if rest:
        num_steps, seed, out = rest
        torch.manual_seed(int(seed))
        burst, generator = example_loop(images_uint8, network, int(batch_size))
        burst(int(num_steps))
        np.save(out, sample(generator, 3000))
    elif device == "cpu":
        serve(example_loop(images_uint8, network, int(batch_size))[0])
    elif torch.cuda.is_available():
        burst, _ = example_loop(images_uint8, network, int(batch_size), "cuda")
        serve(burst, torch.cuda.max_memory_allocated)
    else:
        answer({"error": "PyTorch sees no GPU"})


if __name__ == "__main__":
    main()
