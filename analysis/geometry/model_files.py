"""Reads the architecture, never the code, of a stranger's Keras file.

A `.keras` file is a zip whose `config.json` may name any Python object; Keras' own
`load_model` has had to close a way around its safe mode every few months. Here the JSON
is read alone, each class in it is looked up in the lists below before Keras sees it,
and whatever is not listed is refused by name. Weights are not read and not allocated.
"""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras

from gan.upsampling import PACKAGE

MAX_CONFIG_BYTES = 8 * 2**20
MAX_PARAMS = 500_000_000
MAX_NUMBER = 2**20  # the largest size, stride or width that a real model needs
MAX_TEXT = 200  # characters of a name
LAYERS = """
Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D
AveragePooling2D AveragePooling3D BatchNormalization CenterCrop Concatenate Conv1D
Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D
Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU Embedding Flatten GRU
GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization Identity InputLayer LSTM LayerNormalization LeakyReLU MaxPooling1D
MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization
PReLU Permute RMSNormalization ReLU RepeatVector Rescaling Reshape Resizing
SeparableConv1D SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D
SpatialDropout3D Subtract UnitNormalization UpSampling1D UpSampling2D UpSampling3D
ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
ALLOWED = {
    "keras.layers": LAYERS.split(),
    "keras": ["DTypePolicy", "Sequential"],
    "keras.src.models.functional": ["Functional"],
    "keras.src.ops.numpy": ["Add", "Divide", "Multiply", "Subtract"],
    "keras.src.ops.nn": ["DepthToSpace", "LeakyRelu", "Relu", "Sigmoid"],
    "keras.initializers": [
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform"),
        *("Identity", "LecunNormal", "LecunUniform", "Ones", "Orthogonal"),
        *("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"),
        "Zeros",
    ],
    "keras.regularizers": ["L1", "L1L2", "L2", "OrthogonalRegularizer"],
    "keras.constraints": ["MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"],
    "gan.upsampling": [
        "BalancedPhases",
        "Checker",
        "ICNR",
        "PhasePenalty",
        "Projected",
    ],
}
ACTIVATIONS = """
celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu
linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax
softplus softsign sparse_plus sparsemax squareplus swish tanh tanh_shrink threshold
""".split()
UNUSED = ("compile_config", "build_config", "shared_object_id")
ROOTS = ("Functional", "Sequential")


class ModelFileError(ValueError):
    """The file is not a readable architecture, or asks for what is not allowed."""


def read_architecture(path: str | Path) -> Any:
    """Builds a model from a `.keras` file's or a `.json` file's architecture alone.

    Args:
        path: a file written by `model.save("x.keras")` or holding `model.to_json()`.

    Returns:
        A Keras model whose weights were never allocated: for its shapes only.

    Raises:
        ModelFileError: for another format, a file that is too large or damaged, or one
            that names a class or function which is not allowed.
        OSError: if it cannot be read.
    """
    path = Path(path)
    try:
        config = json.loads(_read_config(path))
    except (ValueError, RecursionError, zipfile.BadZipFile) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: not a Keras architecture: {error}") from error
    if not isinstance(config, dict) or config.get("class_name") not in ROOTS:
        found = config.get("class_name") if isinstance(config, dict) else None
        raise ModelFileError(
            f"{path}: received a model of class {found!r}, expected one of "
            f"{' or '.join(ROOTS)}"
        )
    try:
        # Keras keeps a list of variables to initialise later, one list a thread: what a
        # stranger's file adds to it ends with this thread and is never allocated.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_build, _checked(config)).result()
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except Exception as error:  # Keras raises many kinds on a damaged file
        reason = " ".join(str(error).split())[:MAX_TEXT]
        raise ModelFileError(f"{path}: Keras cannot build it: {reason}") from error


def _read_config(path: Path) -> bytes:
    """The JSON text inside the file, read up to the limit and no further."""
    if path.is_dir():
        raise ModelFileError(
            f"{path}: received a folder (a SavedModel?), expected a file"
        )
    with path.open("rb") as file:
        magic = file.read(8)
        file.seek(0)
        if magic.startswith(b"\x89HDF"):
            raise ModelFileError(
                f"{path}: HDF5 files are not read; save it again as .keras"
            )
        if not magic.startswith(b"PK"):
            return _limited(file, path)
        with zipfile.ZipFile(file) as archive:
            if archive.namelist().count("config.json") != 1:
                raise ModelFileError(f"{path}: a zip file without one config.json")
            with archive.open("config.json") as member:
                return _limited(member, path)


def _limited(stream: Any, path: Path) -> bytes:
    data = stream.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ModelFileError(
            f"{path}: its architecture exceeds {MAX_CONFIG_BYTES} bytes"
        )
    return data


def _checked(node: Any, key: str = "") -> Any:
    """A copy of the JSON with every name and number checked, unused parts left out.

    Raises:
        ModelFileError: naming the first thing that is not allowed.
    """
    if isinstance(node, dict):
        if "class_name" in node:
            _check_class(node)
        elif (
            key.endswith("activation") or "registered_name" in node or "module" in node
        ):
            raise ModelFileError(
                f"an object without a class for {key!r} is not allowed"
            )
        return {k: _checked(v, k) for k, v in node.items() if k not in UNUSED}
    if isinstance(node, list):
        return [_checked(item, key) for item in node]
    if isinstance(node, str):
        if len(node) > MAX_TEXT or not node.isprintable():
            raise ModelFileError(f"the text for {key!r} is too long or not printable")
        if key.endswith("activation") and node not in ACTIVATIONS:
            raise ModelFileError(f"activation {node!r} is not allowed")
    if isinstance(node, int | float) and key != "seed" and not abs(node) <= MAX_NUMBER:
        raise ModelFileError(f"{key} = {node} is out of range")
    return node


def _check_class(node: dict[str, Any]) -> None:
    """Refuses an object whose module and class are not listed."""
    module, name = node.get("module"), node["class_name"]
    if name == "__keras_tensor__" and module is None:
        return
    if name not in ALLOWED.get(str(module), ()):
        what = node["config"] if isinstance(node.get("config"), str) else name
        raise ModelFileError(
            f"{str(what)[:MAX_TEXT]!r} of module {str(module)[:MAX_TEXT]!r} is not "
            "allowed: only built-in Keras layers are"
        )
    if node.get("registered_name") not in (None, name, f"{PACKAGE}>{name}"):
        raise ModelFileError(f"{name!r} is registered as {node['registered_name']!r}")


def _build(config: dict[str, Any]) -> Any:
    """The model; its variables stay uninitialised."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        if not model.built:
            raise ModelFileError("the input's shape is not recorded")
        if model.count_params() > MAX_PARAMS:
            raise ModelFileError(f"{model.count_params()} parameters are too many")
    return model
