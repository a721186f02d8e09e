"""Reads the architecture of a Keras file from an unknown source, and never its code.

A `.keras` file is a zip whose `config.json` may name any Python object, and ways around
the safe mode of Keras' own `load_model` have been found again and again. Here only the
JSON is read; each class in it is looked up in the lists below before Keras sees it, and
a name that is not listed is refused. Weights are neither read nor allocated.
"""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras

from analysis.geometry.keras_layers import MERGES, POINTWISE, REARRANGING, SPATIAL
from gan.upsampling import PACKAGE

MAX_CONFIG_BYTES = 8 * 2**20
MAX_PARAMS = 500_000_000
MAX_NUMBER = 2**20  # the largest size, stride or width that a real model needs
MAX_TEXT = 200  # characters of a name
# A layer belongs in these lists only if building it runs nothing but Keras' own code.
AUDITED = [kind.__name__ for kind in (*SPATIAL, *POINTWISE, *MERGES, *REARRANGING)]
OTHER_LAYERS = (
    "CenterCrop Dense Dot Embedding GRU InputLayer LSTM MultiHeadAttention "
    "RepeatVector Resizing"
).split()
INITIALIZERS = """
Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal
LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling
Zeros
""".split()
ALLOWED = {  # class names by module
    "keras.layers": [*AUDITED, *OTHER_LAYERS],
    "keras": ["DTypePolicy", "Sequential"],
    "keras.src.models.functional": ["Functional"],
    "keras.src.ops.numpy": ["Add", "Divide", "Multiply", "Subtract"],
    "keras.src.ops.nn": ["DepthToSpace", "LeakyRelu", "Relu", "Sigmoid"],
    "keras.initializers": INITIALIZERS,
    "keras.regularizers": ["L1", "L1L2", "L2", "OrthogonalRegularizer"],
    "keras.constraints": ["MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"],
    "gan.upsampling": "BalancedPhases Checker ICNR PhasePenalty Projected".split(),
}
ACTIVATIONS = """
celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu
linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax
softplus softsign sparse_plus sparsemax squareplus swish tanh tanh_shrink threshold
""".split()
UNUSED = ("compile_config", "build_config", "shared_object_id")
MODELS = ("Functional", "Sequential")


class ModelFileError(ValueError):
    """The file is no readable architecture, or it names what is not allowed."""


def read_architecture(path: str | Path) -> Any:
    """Builds a model from a `.keras` file or a `.json` file of `model.to_json()`.

    Its weights are never allocated: use it for its shapes only.

    Raises:
        ModelFileError: If the file has another format, is too large or damaged, or
            names a class or function that is not allowed.
    """
    path = Path(path)
    try:
        config = _read_config(path)
        # Keras keeps a list per thread of the variables to initialise later. What this
        # file adds to it ends with the thread and is never allocated.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_build, config).result()
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    """The JSON object inside the file, read up to the limit and no further."""
    if path.is_dir():
        raise ModelFileError("received a folder (a SavedModel?), expected a file")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
            file.seek(0)
            if magic.startswith(b"\x89HDF"):
                raise ModelFileError("HDF5 files are not read; save it again as .keras")
            if magic.startswith(b"PK"):
                with zipfile.ZipFile(file) as archive:
                    if archive.namelist().count("config.json") != 1:
                        raise ModelFileError("a zip file without one config.json")
                    with archive.open("config.json") as member:
                        data = member.read(MAX_CONFIG_BYTES + 1)
            else:
                data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ModelFileError(f"its architecture exceeds {MAX_CONFIG_BYTES} bytes")
        config = json.loads(data)
    except (ModelFileError, OSError):
        raise
    except Exception as error:  # a damaged zip file raises many kinds
        raise ModelFileError(f"not a Keras architecture: {_one_line(error)}") from error
    name = config.get("class_name") if isinstance(config, dict) else None
    if name not in MODELS:
        text = f"received a model of class {str(name)[:MAX_TEXT]!r}, expected one of "
        raise ModelFileError(text + " or ".join(MODELS))
    return config


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_TEXT]


def _build(config: dict[str, Any]) -> Any:
    """The model; its variables stay uninitialised."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            checked = _checked(config)
            model = keras.saving.deserialize_keras_object(checked, safe_mode=True)
            if not model.built:
                raise ModelFileError("the input's shape is not given")
            if model.count_params() > MAX_PARAMS:
                raise ModelFileError(f"{model.count_params()} parameters are too many")
        return model
    except ModelFileError:
        raise
    except Exception as error:  # Keras raises many kinds on a damaged file
        raise ModelFileError(f"Keras cannot build it: {_one_line(error)}") from error


def _checked(node: Any, key: str = "") -> Any:
    """A copy of the JSON with every name and number checked, without unused parts."""
    if isinstance(node, dict):
        is_object = "registered_name" in node or "module" in node
        if "class_name" in node:
            _check_class(node)
        elif is_object or key.endswith("activation"):
            what = f"an object without a class for {key[:MAX_TEXT]!r}"
            raise ModelFileError(f"{what} is not allowed")
        return {k: _checked(v, k) for k, v in node.items() if k not in UNUSED}
    if isinstance(node, list):
        return [_checked(item, key) for item in node]
    if isinstance(node, str):
        if len(node) > MAX_TEXT or not node.isprintable():
            what = f"the text for {key[:MAX_TEXT]!r}"
            raise ModelFileError(f"{what} is too long or not printable")
        if key.endswith("activation") and node not in ACTIVATIONS:
            raise ModelFileError(f"activation {node!r} is not allowed")
    if isinstance(node, int | float) and key != "seed" and not abs(node) <= MAX_NUMBER:
        raise ModelFileError(f"{key[:MAX_TEXT]!r}: {node} is out of range")
    return node


def _check_class(node: dict[str, Any]) -> None:
    """Refuses an object whose module and class are not listed."""
    module, name = node.get("module"), node["class_name"]
    if name == "__keras_tensor__" and module is None:
        return
    if name not in ALLOWED.get(str(module), ()):
        what = node["config"] if isinstance(node.get("config"), str) else name
        found = f"{str(what)[:MAX_TEXT]!r} of module {str(module)[:MAX_TEXT]!r}"
        text = "is not allowed: only built-in Keras layers are"
        raise ModelFileError(f"{found} {text}")
    if node.get("registered_name") not in (None, name, f"{PACKAGE}>{name}"):
        registered = str(node["registered_name"])[:MAX_TEXT]
        raise ModelFileError(f"{name!r} is registered as {registered!r}")
