import keras
import pytest

from gan.export import export_generator
from gan.run.folder import RunError
from gan.sampling import open_run


@pytest.mark.parametrize("name", ["g.keras", "g", "g.tflite"])
def test_every_format_gives_the_same_pixels_after_a_reload(trained, tmp_path, name):
    assert export_generator(open_run(trained), tmp_path / name) <= 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_export_that_gives_other_pixels_is_refused(trained, tmp_path, monkeypatch):
    run = open_run(trained)
    other = keras.models.clone_model(run.generator)
    monkeypatch.setattr(run.generator, "save", other.save)
    with pytest.raises(RunError, match="other pixels than the run .by [1-9]"):
        export_generator(run, tmp_path / "g.keras")


def test_a_full_disk_leaves_the_earlier_export(trained, tmp_path, monkeypatch):
    run = open_run(trained)
    (tmp_path / "g.keras").write_text("earlier")

    def refuse(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.generator, "save", refuse)
    with pytest.raises(OSError, match="No space"):
        export_generator(run, tmp_path / "g.keras")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["earlier"]
