"""The article's claims, executed against TensorFlow and, where present, PyTorch."""

import importlib
import inspect
import warnings
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.geometry.arithmetic import conv_transpose_axis
from tools.build_seed_article import PAGE, load_claims, render

SECTIONS, CLAIMS = load_claims()


def planes(values) -> np.ndarray:
    """A picture (h, w) as TensorFlow wants it, (1, h, w, 1)."""
    return np.asarray(values, np.float64)[None, :, :, None]


def weights(kernel) -> np.ndarray:
    """A kernel (kh, kw) for one input and one output channel."""
    return np.asarray(kernel, np.float64)[:, :, None, None]


def plane(tensor) -> list:
    return tensor.numpy()[0, :, :, 0].tolist()


def impulse_rows(i, k, s, o, padding="SAME") -> np.ndarray:
    """TensorFlow's answers to every impulse of i pixels: (i, o); taps are 1, 2, ..."""
    impulses, taps = np.eye(i)[:, :, None], np.arange(1.0, k + 1)[:, None, None]
    answers = tf.nn.conv1d_transpose(impulses, taps, (i, o, 1), s, padding)
    return answers.numpy()[:, :, 0]


def conv_size(i, k, s, p):
    pads = [[0, 0], [p, p], [p, p], [0, 0]]
    answer = tf.nn.conv2d(planes(np.ones((i, i))), weights(np.ones((k, k))), s, pads)
    return answer.shape[1]


def keras_transpose_size(i, k, s, padding, op=None):
    layer = keras.layers.Conv2DTranspose(1, k, s, padding, output_padding=op)
    return layer(np.ones((1, i, i, 1), np.float32)).shape[1]


def keras_size_for_strides(i, k, strides):
    layer = keras.layers.Conv2DTranspose(1, k, tuple(strides), "same")
    return list(layer(np.ones((1, i, i, 1), np.float32)).shape[1:3])


def there_and_back_sizes(i, k, s):
    down = tf.nn.conv2d(planes(np.ones((i, i))), weights(np.ones((k, k))), s, "SAME")
    return [down.shape[1], keras_transpose_size(down.shape[1], k, s, "same")]


def conv_matrix(i, k):
    """C of a plane convolution with random weights, from TensorFlow's impulses."""
    kernel = weights(np.random.default_rng(0).normal(size=(k, k)))
    impulses = np.eye(i * i).reshape(i * i, i, i, 1)
    return tf.nn.conv2d(impulses, kernel, 1, "VALID").numpy().reshape(i * i, -1).T


def conv_matrix_shape_and_rank(i, k):
    matrix = conv_matrix(i, k)
    return [*matrix.shape, int(np.linalg.matrix_rank(matrix))]


def taps_per_matrix_row(i, k):
    return np.count_nonzero(conv_matrix(i, k), axis=1).tolist()


def three_steps(i, k, s, p, d=1):
    """Sizes of the three steps, once their values equal TensorFlow's."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=i), rng.normal(size=k)
    reach, pad = (k - 1) * d + 1, (k - 1) * d - p
    stretched, dilated = np.zeros((i - 1) * s + 1), np.zeros(reach)
    stretched[::s], dilated[::d] = x, kernel
    padded = np.pad(stretched, pad)
    got = np.correlate(padded, dilated[::-1], "valid")
    full = tf.nn.conv1d_transpose(
        x[None, :, None],
        dilated[:, None, None],
        (1, (i - 1) * s + max(reach, s), 1),
        s,
        "VALID",
    ).numpy()[0, :, 0]
    assert np.allclose(got, full[p : p + got.size])
    return [stretched.size, pad, padded.size, got.size]


def is_adjoint(i, k, s):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, i, i, 2)), rng.normal(size=(k, k, 2, 3))
    cx = tf.nn.conv2d(x, kernel, s, "SAME").numpy()
    y = rng.normal(size=cx.shape)
    cty = tf.nn.conv2d_transpose(y, kernel, x.shape, s, "SAME").numpy()
    return bool(np.isclose(np.sum(cx * y), np.sum(x * cty)))


def is_gradient_of_conv(i, k, s):
    rng = np.random.default_rng(0)
    x, kernel = (
        tf.constant(rng.normal(size=(1, i, i, 2))),
        rng.normal(size=(k, k, 2, 3)),
    )
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.conv2d(x, kernel, s, "SAME")
    upstream = rng.normal(size=y.shape)
    gradient = tape.gradient(y, x, upstream)
    answer = tf.nn.conv2d_transpose(upstream, kernel, x.shape, s, "SAME")
    return bool(np.allclose(gradient, answer))


def comes_back(i, k, s):
    """Whether the size and the values return from a convolution and its transpose."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, i, i, 1)), rng.normal(size=(k, k, 1, 1))
    y = tf.nn.conv2d(x, kernel, s, "SAME")
    size = s * y.shape[1]  # that of Keras' layer
    back = tf.nn.conv2d_transpose(y, kernel, (1, size, size, 1), s, "SAME")
    return [size == i, bool(np.allclose(back, x))]


def has_name(module, name):
    return hasattr(importlib.import_module(module), name)


def torch_has_name(name):
    return hasattr(pytest.importorskip("torch").nn, name)


def conv_of_impulse(kernel):
    size = len(kernel)
    impulse = np.zeros((2 * size - 1, 2 * size - 1))
    impulse[size - 1, size - 1] = 1
    return plane(tf.nn.conv2d(planes(impulse), weights(kernel), 1, "VALID"))


def conv_of_count(i, kernel, s):
    count = np.arange(1, i * i + 1).reshape(i, i)
    return plane(tf.nn.conv2d(planes(count), weights(kernel), s, "SAME"))


def transpose_values(x, kernel, s, o, padding="SAME"):
    shape = (1, o, o, 1)
    return plane(tf.nn.conv2d_transpose(planes(x), weights(kernel), shape, s, padding))


def restored_values(i, kernel, s):
    count = np.arange(1, i * i + 1).reshape(i, i)
    back = np.array(transpose_values(conv_of_count(i, kernel, s), kernel, s, i))
    return back[back == count].tolist()


def tf_crop(i, k, s, o):
    """Rows that TensorFlow leaves out of the full output at its start and its end."""
    start = int(impulse_rows(i, k, s, o)[0, 0]) - 1  # the first tap that is kept
    return [start, (i - 1) * s + k - o - start]


def tf_starts_at(i, k, s, o, crop):
    """Whether TensorFlow's values are the full output from row `crop` on."""
    full = impulse_rows(i, k, s, (i - 1) * s + max(k, s), "VALID")
    full = np.pad(full, ((0, 0), (0, o)))
    return bool(np.array_equal(impulse_rows(i, k, s, o), full[:, crop : crop + o]))


def remainders_with_tf_padding(largest_input):
    found = set()
    for i in range(1, largest_input + 1):
        for k in range(1, 8):
            for s in range(1, min(k, 4) + 1):
                for o in range((i - 1) * s + 1, i * s + 1):
                    found.add((o + sum(tf_crop(i, k, s, o)) - k) % s)
    return sorted(found)


def size_and_zero_rows(i, k, s, padding, op=None):
    layer = keras.layers.Conv2DTranspose(
        1, k, s, padding, output_padding=op, kernel_initializer="ones"
    )
    rows = np.array(plane(tf.convert_to_tensor(layer(np.ones((1, i, i, 1), "f4")))))
    return [len(rows), int(np.sum(~rows.any(axis=1)))]


def inside_of_constant(kernel, s) -> np.ndarray:
    """A long row of ones through a transposed convolution, its clean middle."""
    taps = np.asarray(kernel, float)[:, None, None]
    out = tf.nn.conv1d_transpose(np.ones((1, 20, 1)), taps, (1, 20 * s, 1), s, "SAME")
    start = conv_transpose_axis(20, len(kernel), s).pad_before  # phase of row 0
    return np.roll(out.numpy()[0, :, 0], start)[4 * s : -4 * s]


def pattern_of_constant(kernel, s, then=None):
    inside = inside_of_constant(kernel, s)
    if then:
        filters = np.array(then)[:, None, None]
        inside = tf.nn.conv1d(inside[None, :, None], filters, 1, "VALID")[
            0, :, 0
        ].numpy()
    return inside[:s].tolist()


def overlap_in_the_plane(k, s):
    line = inside_of_constant([1] * k, s)[:s]
    return sorted(np.outer(line, line).ravel().tolist(), reverse=True)


def keras_named_arguments():
    parameters = inspect.signature(keras.layers.Conv2DTranspose.__init__).parameters
    return len([name for name in parameters if name not in ("self", "kwargs")])


def keras_refuses(k, s, op=None, d=1):
    try:
        keras.layers.Conv2DTranspose(1, k, s, output_padding=op, dilation_rate=d)
    except ValueError:
        return True
    return False


def tensorflow_has(name):
    return hasattr(tf, name)


def keras_kernel_shape(k, channels, filters):
    layer = keras.layers.Conv2DTranspose(filters, k)
    layer.build((None, 4, 4, channels))
    return list(layer.kernel.shape)


def reshapes_to_7_7_256(units):
    try:
        keras.Sequential(
            [
                keras.Input((100,)),
                keras.layers.Dense(units),
                keras.layers.Reshape((7, 7, 256)),
            ]
        )
    except ValueError:
        return False
    return True


def dense_output_shape(shape, units):
    return list(keras.layers.Dense(units)(np.ones(shape, np.float32)).shape)


def input_shape_argument_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keras.layers.Dense(3, input_shape=(100,))
    return any(issubclass(warning.category, UserWarning) for warning in caught)


def article_generator() -> keras.Sequential:
    """The article's generator with its Dense layer put right."""
    layers: list[keras.layers.Layer] = [
        keras.Input((100,)),
        keras.layers.Dense(7 * 7 * 256, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.LeakyReLU(),
        keras.layers.Reshape((7, 7, 256)),
    ]
    for filters, stride in ((128, 1), (64, 2)):
        layers += [
            keras.layers.Conv2DTranspose(filters, 5, stride, "same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.LeakyReLU(),
        ]
    last = keras.layers.Conv2DTranspose(1, 5, 2, "same", use_bias=False)
    return keras.Sequential([*layers, last])


def generator_maps():
    kinds = (keras.layers.Reshape, keras.layers.Conv2DTranspose)
    layers = article_generator().layers
    return [
        list(layer.output.shape[1:]) for layer in layers if isinstance(layer, kinds)
    ]


def generator_parameters():
    return article_generator().count_params()


def default_leaky_slope():
    return keras.layers.LeakyReLU().negative_slope


def torch_transpose(x, kernel, s, p, op=0, d=1):
    torch = pytest.importorskip("torch")
    x, kernel = (torch.tensor(v, dtype=torch.float64)[None, None] for v in (x, kernel))
    return torch.nn.functional.conv_transpose2d(x, kernel, None, s, p, op, 1, d)[0, 0]


def torch_size(i, k, s, p, op=0, d=1):
    return len(torch_transpose(np.ones((i, i)), np.ones((k, k)), s, p, op, d))


def torch_values(x, kernel, s, p):
    return torch_transpose(x, kernel, s, p).tolist()


def torch_is_tf_moved_by(i, k, s, p, op):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(i, i)), rng.normal(size=(k, k))
    theirs = torch_transpose(x, kernel, s, p, op).numpy()
    size = len(theirs)
    ours = np.array(transpose_values(x, kernel, s, size))
    return next(
        n
        for n in range(size)
        if np.allclose(theirs[: size - n, : size - n], ours[n:, n:])
    )


@pytest.mark.parametrize(
    ("claim", "check"),
    [
        pytest.param(claim["id"], check, id=f"{claim['id']}-{check['run']}")
        for claim in CLAIMS
        for check in claim.get("checks", [])
    ],
)
def test_the_framework_answers_as_the_table_says(claim, check):
    assert globals()[check["run"]](**check["with"]) == check["gives"], claim


def test_the_table_is_complete():
    assert len({claim["id"] for claim in CLAIMS}) == len(CLAIMS) == 92
    assert {claim["id"][0] for claim in CLAIMS} == set(SECTIONS)
    counts = Counter(claim["verdict"] for claim in CLAIMS)
    assert counts == {"R": 47, "S": 26, "W": 19}


def test_the_page_is_built_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == render()


def test_a_wrong_row_would_be_noticed():
    claim = next(claim for claim in CLAIMS if claim["id"] == "I7")
    articles_answer = [2, 2]
    assert tf_crop(**claim["checks"][0]["with"]) != articles_answer
