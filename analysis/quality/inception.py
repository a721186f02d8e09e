"""Inception's features, as papers use them, for those who have the weights.

Nothing is downloaded. The user names the file of Keras' ImageNet weights without the
top, `inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5`. These are not the
weights of the 2015 graph behind published FIDs, so that a number from here compares
with others from here alone; its name says so. For published tables export PNG files and
use an outside tool.
"""

import hashlib
from pathlib import Path

import keras
import numpy as np

from analysis.quality.extractor import Extractor, ExtractorError

SUFFIXES = (".h5", ".hdf5")
SIZE_PX = 299
NUM_FEATURES = 2048
BATCH_SIZE = 25  # 0.4 GB of activations


def load_inception(path: Path, image_shape: tuple[int, int, int]) -> Extractor:
    """Loads the net; images of any size are enlarged bilinearly to 299 px.

    Args:
        path: HDF5 weights of `keras.applications.InceptionV3(include_top=False)`.
        image_shape: (H, W, C) of the images to come, C 1 or 3.

    Returns:
        An extractor of 2048 raw features, not standardised, as FID takes them.

    Raises:
        ExtractorError: if the file holds other weights.
    """
    inputs = keras.Input(image_shape)
    x = inputs
    if image_shape[2] == 1:
        x = keras.layers.Concatenate()([x, x, x])
    x = keras.layers.Resizing(SIZE_PX, SIZE_PX)(x)
    inception = keras.applications.InceptionV3(
        include_top=False,
        weights=None,
        input_shape=(SIZE_PX, SIZE_PX, 3),
        pooling="avg",
    )
    try:
        inception.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds on a strange file
        raise ExtractorError(
            f"{path}: not the weights of Keras' InceptionV3 without its top "
            f"({' '.join(str(error).split())[:120]})"
        ) from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return Extractor(
        id=f"inception_keras-{found[:8]}",
        net=keras.Model(inputs, {"features": inception(x)}),
        mean=np.zeros(NUM_FEATURES),
        std=np.ones(NUM_FEATURES),
        batch_size=BATCH_SIZE,
    )
