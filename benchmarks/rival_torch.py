"""PyTorch's DCGAN example as a worker, written anew for 28x28 images.

    python -m benchmarks.rival_torch IMAGES.npz BATCH_SIZE [cpu|gpu]

The loop is that of the example: the discriminator learns from real and from generated
images, then the generator from a third pass. The network is that of this project. The
file needs only PyTorch and NumPy, so that the Python of another environment can run it.
"""

import sys
from collections.abc import Callable, Iterator

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


def build_generator() -> nn.Sequential:
    """Latents (batch, 100) to images (batch, 1, 28, 28)."""
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


def build_discriminator() -> nn.Sequential:
    """Images (batch, 1, 28, 28) to logits (batch, 1)."""
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
    images = torch.from_numpy(images_uint8[:, None]).float() / 127.5 - 1
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
    images_uint8: np.ndarray, batch_size: int, device: str = "cpu"
) -> Callable[[int], None]:
    """Returns a function that does a number of steps on uint8 images (N, 28, 28)."""
    generator = build_generator().apply(initialize).to(device)
    discriminator = build_discriminator().apply(initialize).to(device)
    rates = {"lr": 2e-4, "betas": (0.5, 0.999)}
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

    return burst


def main() -> None:
    """Reads the arguments and answers the parent process."""
    file, batch_size, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with np.load(file, allow_pickle=False) as arrays:
        images_uint8 = arrays["train_images"]
    if device == "cpu":
        serve(example_loop(images_uint8, batch_size))
    elif torch.cuda.is_available():
        burst = example_loop(images_uint8, batch_size, "cuda")
        serve(burst, torch.cuda.max_memory_allocated)
    else:
        answer({"error": "PyTorch sees no GPU"})


if __name__ == "__main__":
    main()
