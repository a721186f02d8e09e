"""Reads the architecture of a Keras file from an unknown source, and never its code.

A `.keras` file is a zip whose `config.json` may name any Python object, and ways around
the safe mode of Keras' own `load_model` have been found again and again. Here only the
JSON is read; each class in it is looked up in the lists below before Keras sees it, and
a name that is not listed is refused. In place of a layer that is not listed, the model
may have a `NotRead`, which knows nothing of it but its name and its output's size.
Weights are neither read nor allocated.
"""

import json
import mmap
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import keras

from analysis.geometry.keras2 import modernize
from analysis.geometry.keras_layers import (
    MERGES,
    POINTWISE,
    REARRANGING,
    SPATIAL,
    NotRead,
)
from analysis.geometry.stand_ins import StandIn, with_stand_ins
from gan.upsampling import PACKAGE

MAX_CANDIDATES = 16  # places in an HDF5 file that look like a model
CONFIG_IN_HDF5 = re.compile(rb'\{"(?:module|class_name)": "')
METADATA = "keras_metadata.pb"  # of a SavedModel that tf.keras 2 wrote
MAX_CONFIG_BYTES = 8 * 2**20
MAX_PARAMS = 500_000_000
MAX_NUMBER = 2**20  # the largest size, stride or width that a real model needs
MAX_TEXT = 200  # characters of a name
MAX_REASON = 500  # characters of a message of Keras
# A layer belongs in these lists only if building it runs nothing but Keras' own code.
AUDITED = [kind.__name__ for kind in (*SPATIAL, *POINTWISE, *MERGES, *REARRANGING)]
OTHER_LAYERS = (
    "Bidirectional CenterCrop Dense Dot Embedding GRU InputLayer LSTM "
    "MultiHeadAttention RepeatVector Resizing SpectralNormalization TimeDistributed"
).split()
# These layers of Keras hold code or open files.
REFUSED_LAYERS = (
    "FlaxLayer IntegerLookup JaxLayer Lambda StringLookup TextVectorization TFSMLayer "
    "TorchModuleWrapper"
).split()
# Other names of Keras' own packages are no layers.
LAYER_MODULE = re.compile(r"(tf_)?keras\.(src\.)?(layers|ops)\b")
INITIALIZERS = """
Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal
LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling
Zeros
""".split()
ALLOWED = {  # class names by module
    "keras.layers": [*AUDITED, *OTHER_LAYERS],
    "keras": ["DTypePolicy", "Sequential"],
    "keras.src.models.functional": ["Functional"],
    "keras.src.ops.numpy": """
        Absolute Add Clip Concatenate Divide ExpandDims Flip GetItem Maximum Mean
        Minimum Multiply Negative Pad Repeat Reshape Sqrt Square Squeeze Subtract Sum
        Tanh Transpose
    """.split(),
    "keras.src.ops.nn": "DepthToSpace Elu Gelu LeakyRelu Relu Sigmoid Silu".split(),
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
NO_LAYERS = (
    "such a SavedModel does not state its layers; save the model as a .keras file, or "
    "convert the folder to ONNX with tf2onnx"
)
UNUSED = ("compile_config", "build_config", "shared_object_id")
MODELS = ("Functional", "Sequential")
VALUES = ("__ellipsis__", "__keras_tensor__", "__slice__")  # arguments of a call


class ModelFileError(ValueError):
    """The file is no readable architecture, or it names what is not allowed."""


def read_architecture(path: str | Path, input_size: int | None = None) -> Any:
    """Builds a model from a `.keras`, `.h5` or `.json` file, or from a SavedModel.

    A `.json` file is one of `model.to_json()`, a SavedModel a folder that tf.keras 2
    wrote.

    Its weights are never allocated: use it for its shapes only. Inputs that leave their
    height and width open get `input_size` pixels.

    Raises:
        ModelFileError: If the file has another format, is too large or damaged, or
            names a class or function that is not allowed.
    """
    path = Path(path)
    try:
        config = _read_config(path)
        if input_size:
            _fix_inputs(config, input_size)
        # Keras keeps a list per thread of the variables to initialise later. What this
        # file adds to it ends with the thread and is never allocated.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_build, config).result()
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read_model(path: str | Path) -> Any:
    """Builds the model of a `.keras` file with its weights, which are only numbers.

    Raises:
        ModelFileError: as `read_architecture`, for layers that are not read, and for
            weights that do not fit.
    """
    path = Path(path)
    architecture = read_architecture(path)  # checks all of it, and allocates nothing
    layers = architecture._flatten_layers()
    if unread := [layer.name for layer in layers if isinstance(layer, NotRead)]:
        raise ModelFileError(f"{path}: the layer {unread[0]} is not read")
    config = _checked(modernize(_read_config(path)))
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        model.load_weights(path)
    except Exception as error:  # a damaged file raises many kinds
        text = f"{path}: its weights cannot be loaded: {_reason(error)}"
        raise ModelFileError(text) from error
    return model


def _read_config(path: Path) -> dict[str, Any]:
    """The JSON object inside the file, read up to the limit and no further."""
    if path.is_dir() and not (path / METADATA).is_file():
        raise ModelFileError(f"received a folder without {METADATA}: {NO_LAYERS}")
    try:
        with (path / METADATA if path.is_dir() else path).open("rb") as file:
            magic = file.read(8)
            file.seek(0)
            if path.is_dir():
                data = _config_in_saved_model(file)
            elif magic.startswith(b"\x89HDF"):
                data = _config_in_hdf5(file)
            elif magic.startswith(b"PK"):
                with zipfile.ZipFile(file) as archive:
                    if archive.namelist().count("config.json") != 1:
                        text = "a zip file without one config.json, expected a .keras"
                        raise ModelFileError(f"{text} file of model.save")
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
        text = f"not a Keras architecture ({_reason(error)})"
        raise ModelFileError(f"{text}: expected a .keras, .h5 or .json file") from error
    name = config.get("class_name") if isinstance(config, dict) else None
    if name not in (*MODELS, "Model"):
        text = f"received a model of class {str(name)[:MAX_TEXT]!r}, expected one of "
        raise ModelFileError(text + " or ".join(MODELS))
    return config


def _fix_inputs(config: dict[str, Any], size: int) -> None:
    """Sets the sizes that the inputs of a model leave open; the batch stays open."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        settings = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(settings, dict):
            continue
        for key in ("batch_shape", "batch_input_shape"):
            shape = settings.get(key)
            if isinstance(shape, list) and len(shape) > 2:
                settings[key] = [shape[0], *(n or size for n in shape[1:])]


def _config_in_hdf5(file: Any) -> bytes:
    """The JSON of a model in an HDF5 file, which keeps such a text in one piece.

    The text is searched for, so that no other part of a file that is not trusted is
    interpreted.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in islice(CONFIG_IN_HDF5.finditer(data), MAX_CANDIDATES):
            text = data[match.start() : match.start() + MAX_CONFIG_BYTES]
            with suppress(ValueError, RecursionError):
                found, end = json.JSONDecoder().raw_decode(text.decode("latin-1"))
                if found.get("class_name") in (*MODELS, "Model"):
                    return text[:end]
    todo = "build the model, then model.load_weights and model.save('model.keras')"
    raise ModelFileError(f"an HDF5 file without the layers of a model: {todo}")


def _config_in_saved_model(file: Any) -> bytes:
    """The JSON of a model in the metadata of a SavedModel, whose first text it is."""
    data = file.read(MAX_CONFIG_BYTES).decode("latin-1")
    start = data.find('{"name": "')
    found = json.JSONDecoder().raw_decode(data[start:])[0] if start >= 0 else {}
    if found.get("class_name") not in MODELS:
        raise ModelFileError(
            f"its model is no Functional or Sequential one: {NO_LAYERS}"
        )
    return json.dumps({key: found[key] for key in ("class_name", "config")}).encode()


def _reason(error: Exception) -> str:
    """Why Keras refuses something, in one line; Keras says it after the config."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    before, _, reason = text.rpartition("Exception encountered: ")
    if kinds := re.findall(r"class '(?:[\w.]+\.)?(\w+)'", before):
        reason = f"{kinds[-1]}: {reason}"
    line = " ".join(reason.split()) + " is missing" * isinstance(error, KeyError)
    return line if len(line) <= MAX_REASON else line[:MAX_REASON] + " …"


def _build(config: dict[str, Any]) -> Any:
    """The model; its variables stay uninitialised."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            checked, custom = _checked(modernize(config)), {"NotRead": NotRead}
            model = keras.saving.deserialize_keras_object(checked, custom, True)
            if not model.built:
                raise ModelFileError("the input's shape is not given")
            if model.count_params() > MAX_PARAMS:
                raise ModelFileError(f"{model.count_params()} parameters are too many")
        return model
    except ModelFileError:
        raise
    except Exception as error:  # Keras raises many kinds on a damaged file
        raise ModelFileError(f"Keras cannot build it: {_reason(error)}") from error


def _checked(node: Any, key: str = "") -> Any:
    """A copy of the JSON with every name and number checked, without unused parts."""
    if isinstance(node, dict):
        is_object = "registered_name" in node or "module" in node
        if "class_name" in node:
            _check_class(node, key)
        elif is_object or key.endswith("activation"):
            what = f"an object without a class for {key[:MAX_TEXT]!r}"
            raise ModelFileError(f"{what} is not allowed")
        if node.get("class_name") in MODELS:
            node = {**node, "config": with_stand_ins(node["config"], _is_read)}
        return {k: _checked(v, k) for k, v in node.items() if k not in UNUSED}
    if isinstance(node, list):
        return [_checked(item, key) for item in node]
    if isinstance(node, str):
        _check_text(node, key)
    if isinstance(node, int | float) and key != "seed" and not abs(node) <= MAX_NUMBER:
        raise ModelFileError(f"{key[:MAX_TEXT]!r}: {node} is out of range")
    return node


def _check_text(text: str, key: str) -> None:
    """Refuses a long text, and an activation that is not listed."""
    if len(text) > MAX_TEXT or not text.isprintable():
        what = f"the text for {key[:MAX_TEXT]!r}"
        raise ModelFileError(f"{what} is too long or not printable")
    if key.endswith("activation") and text not in ACTIVATIONS:
        raise ModelFileError(f"activation {text!r} is not allowed: only Keras' own are")


def _is_read(layer: dict[str, Any]) -> bool:
    """Whether a layer is to be built or refused, not to be replaced by a stand-in."""
    module, name = str(layer.get("module") or ""), layer["class_name"]
    package = module.split(".")[0]
    if package in sys.stdlib_module_names or name in REFUSED_LAYERS:
        return True
    if package in ("keras", "tf_keras") and not LAYER_MODULE.match(module):
        return True
    return name in ALLOWED.get(module, ())


def _check_class(node: dict[str, Any], key: str) -> None:
    """Refuses an object whose module and class are not listed."""
    module, name = node.get("module"), node["class_name"]
    if (name in VALUES and module is None) or isinstance(node, StandIn):
        return
    if name not in ALLOWED.get(str(module), ()):
        text = "this audit reads only the classes of Keras that it lists"
        if name in REFUSED_LAYERS:
            text = "it holds code or opens files, so use other layers or keras.ops"
        elif key == "layers" and not _is_read(node):
            text = (
                "this audit does not read it, and the file does not state the size of "
                "its output: put a layer behind it, such as Activation('linear')"
            )
        raise ModelFileError(f"{_described(node)} is not allowed: {text}")
    if node.get("registered_name") not in (None, name, f"{PACKAGE}>{name}"):
        registered = str(node["registered_name"])[:MAX_TEXT]
        raise ModelFileError(f"{name!r} is registered as {registered!r}")


def _described(node: dict[str, Any]) -> str:
    """The class, or the function, that an object names."""
    config, module = node.get("config"), node.get("module")
    what = config if isinstance(config, str) else node["class_name"]
    where = f" of module {str(module)[:MAX_TEXT]!r}" if module else ""
    return f"{str(what)[:MAX_TEXT]!r}{where}"
