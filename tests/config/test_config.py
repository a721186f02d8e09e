import dataclasses
import json
import tomllib

import pytest

from config.loader import (
    PRESETS,
    differences,
    from_dict,
    literal,
    load_config,
    to_dict,
)
from config.schema import Config, ConfigError, ModelConfig


def test_the_last_of_defaults_preset_flags_and_sets_wins(tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text("[train]\nbatch_size = 2\nepochs = 2\nbeta_1 = 0.2\n")
    flags = {"train.batch_size": 3, "train.epochs": 3.0, "run.seed": None}
    config = load_config(
        str(preset), flags, ["train.batch_size=9", " train.batch_size = 4 "]
    )
    assert Config().train.batch_size == 16
    assert (config.train.batch_size, config.train.epochs) == (4, 3.0)
    assert (config.train.beta_1, config.train.beta_2) == (0.2, 0.999)
    assert config.run.seed == 0  # a flag of None was not given
    assert load_config(str(preset), flags).train.batch_size == 3
    assert load_config(str(preset)).train.batch_size == 2


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_preset_loads_and_says_only_what_differs(path):
    config = load_config(path.stem)
    assert config == load_config(str(path))
    changed = {line.partition(":")[0] for line in differences(Config(), config)}
    written = {
        f"{section}.{key}"
        for section, table in tomllib.loads(path.read_text()).items()
        for key in table
    }
    assert written == changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian.jit=true", "unknown section trian; did you mean train"),
        ("train.batchsize=4", "unknown key train.batchsize; did you mean train.batch"),
        ("train.zzz=4", "unknown key train.zzz; known: batch_size"),
        ("a.b.c=1", "unknown section a; known: data, model, train, run"),
        ("batch_size=1", "received key 'batch_size', expected section.key"),
        ("train.batch_size", "expected section.key=value"),
        ("train.batch_size=true", "train.batch_size: received True, expected int"),
        ("train.batch_size=8.0", "received 8.0, expected int"),
        ("train.batch_size=eight", "received 'eight', expected int"),
        ("train.batch_size=", "received '', expected int"),
        ("train.batch_size=9223372036854775808", "expected int"),
        ("train.batch_size=0", "train.batch_size: received 0, expected at least 1"),
        ("train.epochs=nan", "train.epochs: received nan, expected float"),
        ("train.epochs=inf", "received inf, expected float"),
        ("train.epochs=-1", "received -1.0, expected at least 0"),
        ("train.epochs=true", "received True, expected float"),
        ("train.epochs=0.5x", "received '0.5x', expected float"),
        ("train.beta_1=1.0", "received 1.0, expected at most 0.9999"),
        ("train.jit=1", "train.jit: received 1, expected bool"),
        ("train.jit=yes", "received 'yes', expected bool"),
        ("data.fit=false", "data.fit: received False, expected str"),
        ("data.fit=zoom", "received 'zoom', expected one of crop, pad, stretch"),
        ("model.upsample=nearest", "expected one of transpose, transpose-blur"),
        ("model.kernel_size=1", "expected at least 2"),
        ("model.generator_widths=8", "received 8, expected list of int"),
        ("model.generator_widths=[8, true, 4]", "received True, expected int"),
        ("model.generator_widths=" + str([8] * 11), "expected at most 10 numbers"),
        ("model.discriminator_widths=[0, 8]", "10 numbers from 1 to 4096"),
        ("data.image_size=30", "multiple of 4; nearest: 32"),
        ("data.image_size=2", "nearest: 4"),
        ("data.channels=2", "data.channels: received 2, expected 1, 3 or 0"),
        ("train.epochs=0", "both 0: no budget"),
        ("run.seed=-1", "run.seed: received -1, expected at least 0"),
        ("run.checkpoint_steps=[9, 0]", "received [9, 0], expected numbers of at lea"),
    ],
)
def test_a_refusal_names_the_key_and_what_is_allowed(text, message):
    with pytest.raises(ConfigError) as refusal:
        load_config(sets=[text])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("key", ["train.epochs", "train.num_steps", "train.beta_1"])
def test_a_number_beyond_all_types_is_refused(key, digits):
    with pytest.raises(ConfigError, match=key):
        load_config(sets=[f"{key}=1{'0' * digits}"])


@pytest.mark.parametrize(
    "text",
    [
        "train.epochs=1e300",
        "train.num_steps=9223372036854775807",
        "train.batch_size=1000000000000",
        "train.epochs=" + "[" * 5000,
        "data.image_size=4000000",
        "model.latent_dim=1000000000000",
        "model.generator_widths=[8, 8, 1000000]",
    ],
)
def test_a_setting_that_no_machine_could_hold_is_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        load_config(sets=[text])


def test_an_error_in_a_preset_names_it(tmp_path):
    cases = {
        "[train\n": "not valid TOML",
        "train = 5": "train: received 5, expected a table",
        "[train]\nlos = 'bce'": "did you mean train.loss",
    }
    for text, message in cases.items():
        (tmp_path / "p.toml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(str(tmp_path / "p.toml"), {"train.batch_size": 4})
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(str(tmp_path / "p.toml"))
    for missing in ("no_such", str(tmp_path / "no.toml"), str(tmp_path)):
        with pytest.raises(
            ConfigError, match="fashion_mnist, mnist, smoke, study, tutorial"
        ):
            load_config(missing)


def test_resize_is_another_name_of_resize_nearest():
    assert load_config(flags={"model.upsample": "resize"}) == load_config(
        sets=["model.upsample=resize-nearest"]
    )
    with pytest.raises(ConfigError):  # the alias is known to the loader alone
        Config(model=ModelConfig(upsample="resize"))


def test_values_are_written_as_in_toml_or_as_plain_words():
    values = [
        literal(t) for t in ("3", "3.5", "true", "[1, 2]", "'3'", "mnist", "/a/b")
    ]
    assert values == [3, 3.5, True, [1, 2], "3", "mnist", "/a/b"]
    assert load_config(sets=["data.dataset=2024"]).data.dataset == "2024"
    assert load_config(sets=["train.epochs=2"]).train.epochs == 2.0


def test_json_keeps_every_setting():
    sets = ["model.generator_widths=[3, 2, 1]", "train.epochs=0.1", "train.jit=true"]
    config = load_config("tutorial", sets=sets)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config and isinstance(again.model.generator_widths, tuple)
    for damaged in ([], None, 5, {"train": [1]}, {"train": {"beta_1": None}}):
        with pytest.raises(ConfigError):
            from_dict(damaged)


def test_differences_name_each_changed_setting_once():
    old, new = Config(), load_config(sets=["run.seed=3", "model.upsample=resize"])
    assert differences(old, old) == []
    assert differences(old, new) == [
        "model.upsample: transpose -> resize-nearest",
        "run.seed: 0 -> 3",
    ]


def test_settings_cannot_be_changed_after_the_checks():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.batch_size = 0
    with pytest.raises(ConfigError):  # nor avoided by building the dataclass directly
        dataclasses.replace(Config(), model=ModelConfig(dropout=float("nan")))
