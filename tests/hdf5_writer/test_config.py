from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, ConfigMaker

from hdf5_writer.config import Config, load_config, read_config
from preprocess.config import ConfigError

GOOD = """\
setup: {input_dir: in, output_dir: out}
processor: {tokenizer_type: tok}
dataset: {system_prompt_style: vicuna_v1}
"""


def config_file(tmp_path: Path, text: str = GOOD) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_documented_defaults_are_the_actual_defaults(tmp_path: Path) -> None:
    config = read_config(config_file(tmp_path))
    assert config.setup.processes is None
    assert (config.setup.samples_per_shard, config.setup.shuffle, config.setup.seed) == (10_000, True, 0)
    assert config.setup.max_reject_fraction == 0.05
    assert (config.processor.max_sequence_length, config.processor.overflow) == (2048, "truncate")
    dataset = config.dataset
    assert (dataset.check_images, dataset.image_size, dataset.patch_size, dataset.num_patches) == (
        "exists",
        336,
        14,
        576,
    )
    assert (dataset.image_key, dataset.image_token, dataset.multi_turn_key) == ("image", "<image>", "conversations")
    assert (dataset.multi_turn_content_key, dataset.role_key) == ("value", "from")
    assert (dataset.append_eos, dataset.use_ftfy) == (False, False)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["processor.max_sequence_lenght=5"], ["unknown key processor.max_sequence_lenght", "max_sequence_length?"]),
        (["setup.overflow=reject"], ["unknown key setup.overflow", "did you mean processor.overflow?"]),
        (["procesor.overflow=reject"], ["unknown key procesor", "did you mean processor?"]),
        (["processor.max_sequence_length=long"], ["processor.max_sequence_length is 'long' (str)", "integer"]),
        (["processor.max_sequence_length=2048.0"], ["processor.max_sequence_length is 2048.0 (float)"]),
        (["setup.shuffle=1"], ["setup.shuffle is 1 (int)", "boolean"]),
        (["setup.processes=0"], ["setup.processes is 0", "greater than or equal to 1"]),
        (["setup.max_reject_fraction=1.5"], ["setup.max_reject_fraction is 1.5"]),
        (["setup.input_dir="], ["setup.input_dir: it is empty, expected a path"]),
        (["setup.input_dir=''"], ["setup.input_dir: it is '', expected a path"]),
        (
            ["setup.output_dir=~nobody-here/x"],
            ["setup.output_dir: it is '~nobody-here/x'", "that home folder does not exist"],
        ),
        (["dataset.image_key=conversations"], ["image_key and multi_turn_key are both 'conversations'"]),
        (["dataset.system_prompt=See <image>"], ["system_prompt contains the image_token '<image>'", "remove it"]),
        (["dataset.role_key=value"], ["role_key and multi_turn_content_key are both 'value'"]),
        (
            ["dataset.record_format=openai"],
            ["dataset.record_format is 'openai'", "'auto', 'llava', 'sharegpt' or 'messages'"],
        ),
        (["dataset.roles={bot: assistant}"], ["dataset.roles is {'bot': 'assistant'}", "'human', 'gpt' or 'system'"]),
        (["dataset.roles.bot=gpt", "dataset.record_format=llava"], ["roles is set", "set sharegpt"]),
        (["dataset.max_images=0"], ["dataset.max_images is 0"]),
        (["setup.dask.port=3"], ["unknown key setup.dask.port", "scheduler_address"]),
        (["processor.overflow=cut"], ["processor.overflow is 'cut'", "'truncate' or 'reject'"]),
        (["dataset.num_patches=575"], ["num_patches is 575", "make 576"]),
        (["dataset.patch_size=15"], ["image_size is 336", "patch_size 15"]),
        (["nonsense"], ["argument 'nonsense'", "section.key=value"]),
        (["setup.seed=[1"], ["argument 'setup.seed=[1'", "not valid YAML"]),
        (["setup.seed='2024-99-99 10:00:00'"], ["argument", "setup.seed is '2024-99-99 10:00:00' (str)"]),
        (["setup.seed=2024-99-99"], ["argument", "setup.seed is '2024-99-99' (str)"]),
        (["setup.seed=!!int x"], ["argument 'setup.seed=!!int x'", "'x' is not a value of the type !!int"]),
        (["dataset.roles={[1]: a}"], ["argument 'dataset.roles={[1]: a}'", "a key is [1], expected text"]),
        (["dataset.chat_template_date=2024-13-45"], ["it is '2024-13-45', expected a date such as 2024-07-26"]),
    ],
)
def test_invalid_values_are_reported_with_their_key(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(config_file(tmp_path), overrides)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("setup: [1, 2]\n", "expected the sections"),
        ("just text\n", "expected the sections"),
        ("setup: {input_dir: a, output_dir: b\n", "not valid YAML"),
        (GOOD + "setup: {input_dir: b}\n", "'setup' is given twice"),
        (GOOD.replace("tokenizer_type: tok", ""), "processor.tokenizer_type is missing"),
        (GOOD.replace("dataset: {system_prompt_style: vicuna_v1}\n", ""), "dataset is missing"),
        ("setup: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (
            "setup: {seed: !!int x}\n",
            r"'x' is not a value of the type !!int \(line 1, column 15\); correct it",
        ),
        ("setup: {seed: !!float x}\n", "'x' is not a value of the type !!float"),
        ("setup: {seed: !!bool x}\n", "'x' is not a value of the type !!bool"),
        ("setup: !!map x\n", "'x' is not a value of the type !!map"),
        ("setup: {[1]: a}\n", r"a key is \[1\], expected text \(line 1, column 9\)"),
        ("? [a]\n: b\n", r"a key is \['a'\], expected text"),
        ("setup: &a {dask: *a}\n", "it contains itself, by an alias"),
        ("setup: &a [*a]\n", "it contains itself, by an alias"),
        (GOOD.replace("vicuna_v1", "!!set {a}"), "the type !!set is not supported, expected text"),
        (GOOD.replace("vicuna_v1", "!!binary YQ=="), "the type !!binary is not supported, expected text"),
        (GOOD.replace("vicuna_v1", "!!timestamp x"), "the type !!timestamp is not supported, expected text"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        read_config(config_file(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_name_that_looks_like_a_date_is_text(tmp_path: Path) -> None:
    for name in ("2024-13-45", "2024-07-26"):
        config = read_config(config_file(tmp_path, GOOD.replace("input_dir: in", f"input_dir: {name}")))
        assert config.setup.input_dir == Path(name)
    prompt = read_config(config_file(tmp_path), ["dataset.chat_template_date=2024-07-26"])
    assert prompt.dataset.chat_template_date == date(2024, 7, 26)


@pytest.mark.parametrize(
    ("source", "overrides", "words"),
    [
        ({"a": 1}, {}, "the given config: expected the sections setup, processor and dataset"),
        ({"setup": None}, {}, "the given config: setup.input_dir is missing"),
        ({1: {}}, {}, "the given config: "),
        ([], {}, r"config is \[\], expected a path, the name of a shipped config, or a dict"),
        (None, {}, "config is None, expected a path"),
        ({"setup": {"seed": 5}}, {"setup__seed__x": 1}, "argument 'setup__seed__x=1': seed is a value, not a section"),
        ({"setup": {}}, {"setup__": 1}, "argument setup__: expected section__key=value"),
    ],
)
def test_wrong_arguments_of_load_config_are_config_errors(source: Any, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(source, **overrides)


def test_overrides_are_parsed_as_yaml(tmp_path: Path) -> None:
    config = read_config(
        config_file(tmp_path),
        ["setup.processes=16", "setup.shuffle=false", "setup.max_reject_fraction=1", "dataset.image_dir=~/a b"],
    )
    assert config.setup.processes == 16
    assert config.setup.shuffle is False
    assert config.setup.max_reject_fraction == 1
    assert config.dataset.image_dir == Path("~/a b").expanduser()


@pytest.mark.parametrize(
    "value", ["out #2", "a: b", "2024", "no", "[x]", "it's", "two\nlines", "{a}", "&a", "*", "- x"]
)
def test_paths_and_texts_in_overrides_are_taken_literally(tmp_path: Path, value: str) -> None:
    """YAML would truncate `out #2` to `out`, and `--overwrite` would then empty another folder."""
    config = read_config(config_file(tmp_path), [f"setup.output_dir={value}", f"dataset.image_token={value}"])
    assert config.setup.output_dir == Path(value)
    assert config.dataset.image_token == value


def test_quoted_texts_and_null_in_overrides(tmp_path: Path) -> None:
    arguments = ["setup.output_dir='a #b'", 'dataset.image_key="k"', "dataset.image_dir=null"]
    config = read_config(config_file(tmp_path), [*arguments, "setup.dask.scheduler_address=tcp://a:1"])
    assert (config.setup.output_dir, config.dataset.image_key) == (Path("a #b"), "k")
    assert config.dataset.image_dir is None
    assert config.setup.dask.scheduler_address == "tcp://a:1"
    assert read_config(config_file(tmp_path), ["setup.dask.scheduler_address="]).setup.dask.scheduler_address is None


def test_an_invalid_override_is_named_instead_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^argument 'setup.processes=0': setup.processes is 0 \(int\)"):
        read_config(config_file(tmp_path), ["setup.processes=0"])
    for override, words in (
        ("foo.bar=1", "unknown key foo"),
        ("setup.foo.bar=1", "unknown key setup.foo"),
        ("setup.max_images_per_row=2", "unknown key setup.max_images_per_row"),
        ("processor.max_images_per_row=2", "processor.max_images_per_row is 2, but"),
        ("dataset.num_patches=5", "dataset: num_patches is 5, but"),
        ("dataset.roles.bot=assistant", "dataset.roles is "),
    ):
        with pytest.raises(ConfigError, match=rf"^argument '{override}': {words}"):
            read_config(config_file(tmp_path), [override, "setup.seed=1"])
    with pytest.raises(ConfigError, match=r"^arguments 'dataset.image_size=10' and 'dataset.patch_size=3': "):
        read_config(config_file(tmp_path), ["dataset.image_size=10", "dataset.patch_size=3", "dataset.use_ftfy=true"])
    with pytest.raises(ConfigError, match=r"config\.yaml: setup\.processes is 0"):
        read_config(config_file(tmp_path, GOOD.replace("setup: {", "setup: {processes: 0, ")), ["setup.seed=1"])
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown key foo"):
        read_config(config_file(tmp_path, GOOD + "foo: {bar: 1}\n"), ["foo.baz=1"])


def test_config_dir_is_replaced_by_the_folder_of_the_config(tmp_path: Path) -> None:
    text = GOOD.replace("input_dir: in", "input_dir: '${config_dir}/data'")
    assert read_config(config_file(tmp_path, text)).setup.input_dir == tmp_path / "data"


@pytest.mark.parametrize("name", ["llava_phase_1_preproc.yaml", "llava_phase_2_preproc.yaml", "quickstart.yaml"])
def test_shipped_configs_are_found_by_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(name)
    assert config == read_config(name.removesuffix(".yaml"))
    assert config == read_config(str(CHECKOUT / "configs" / name))


def test_a_name_that_does_not_exist_lists_the_shipped_configs() -> None:
    with pytest.raises(
        ConfigError, match=r"file not found \(did you mean llava_phase_1_preproc\.yaml\?\).* quickstart\.yaml"
    ):
        read_config("llava_phase_1_prepoc.yaml")


def test_row_keys_exclude_keys_that_do_not_affect_rows(make_config: ConfigMaker) -> None:
    base = make_config().row_keys()
    same = make_config(
        setup__output_dir="x",
        setup__input_dir="y",
        setup__processes=7,
        setup__max_reject_fraction=0.5,
        dataset__image_dir="z",
        processor__tokenizer_type="other",
    )
    assert same.row_keys() == base
    changes: list[dict[str, Any]] = [
        {"setup__samples_per_shard": 5},
        {"setup__seed": 1},
        {"setup__shuffle": False},
        {"processor__overflow": "reject"},
        {"processor__max_sequence_length": 512},
        {"dataset__check_images": "none"},
        {"dataset__image_token": "<img>"},
        {"dataset__use_ftfy": True},
    ]
    for change in changes:
        assert make_config(**change).row_keys() != base, change
    unshuffled = make_config(setup__shuffle=False)
    assert unshuffled.row_keys() == make_config(setup__shuffle=False, setup__seed=9).row_keys()


def test_a_config_round_trips_through_json(make_config: ConfigMaker) -> None:
    config = make_config()
    assert Config.model_validate(json.loads(json.dumps(config.as_json()))) == config


def test_the_last_of_repeated_overrides_wins(tmp_path: Path) -> None:
    assert read_config(config_file(tmp_path), ["setup.seed=1", "setup.seed=2"]).setup.seed == 2


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    config = read_config(config_file(tmp_path), ["setup.max_reject_fraction=1e-3", "setup.samples_per_shard=1e4"])
    assert (config.setup.max_reject_fraction, config.setup.samples_per_shard) == (0.001, 10_000)


@pytest.mark.slow
def test_too_deeply_nested_yaml_is_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("setup: " + "[" * 2000 + "]" * 2000)
    with pytest.raises(ConfigError, match=r"deep\.yaml: is not valid YAML: it is nested too deeply"):
        read_config(str(path))
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_config(config_file(tmp_path), ["setup.seed=" + "[" * 5000 + "]" * 5000])
