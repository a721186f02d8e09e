import keras
import numpy as np
import pytest

from analysis.geometry.audit import audit_model


@pytest.mark.parametrize(
    ("name", "size", "num_records"),
    [
        ("MobileNetV2", 96, 155),
        pytest.param("EfficientNetB0", 224, 239, marks=pytest.mark.slow),
        pytest.param("ResNet50", 224, 176, marks=pytest.mark.slow),
    ],
)
def test_a_published_model_is_predicted_layer_by_layer(name, size, num_records):
    """Shapes as built and as run, parameters, and no layer left out or unchecked."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10
    )
    records = audit_model(model)
    assert len(records) == num_records == len(model.layers) - 1  # all but the input
    assert [r.name for r in records if not r.checked] == []
    assert [f for r in records for f in r.findings if f.level == "error"] == []
    assert sum(r.params for r in records) == model.count_params()
    taps = [model.get_layer(r.name).output for r in records]
    values = keras.Model(model.input, taps)(np.zeros((1, size, size, 3), np.float32))
    for record, value in zip(records, values, strict=True):
        assert record.predicted_shape[1:] == tuple(value.shape)[1:], record.name
