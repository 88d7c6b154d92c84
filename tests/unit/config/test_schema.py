"""Configurations: files and options, and everything that is refused before a device is touched."""

import json

import pytest
import yaml
from support.paths import ROOT

from n2s_dist.config.command_line import config_keys, read_config
from n2s_dist.config.schema import Config, from_dict, to_dict
from n2s_dist.utils.errors import UserError

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a configuration file and return the words that name it."""

    def to_file(text: str | bytes) -> list[str]:
        path = tmp_path / "given.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config", str(path)]

    return to_file


def refusal(*arguments: str) -> str:
    """The message that a command line is refused with: always one line."""
    with pytest.raises(UserError) as error:
        read_config(list(arguments))
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_defaults_need_no_argument():
    assert read_config([]) == Config()


def test_options_override_the_file_which_overrides_defaults(write):
    file = write("noise: poisson:0.05\nseed: 3\ndata: {crop_size: 48}\nnetwork: {widths: [4, 8]}\n")
    config = read_config([*file, "--seed", "4", "--data.resample_noise", "true", "--optimizer.betas=[0.5,0.6]"])
    assert (config.noise, config.data.crop_size, config.network.widths) == ("poisson:0.05", 48, [4, 8])
    assert (config.seed, config.data.resample_noise, config.optimizer.betas) == (4, True, [0.5, 0.6])
    assert config.train == Config().train


def test_every_key_is_an_option_and_a_file_key(write):
    """All keys at once, with the default values: nothing is listed that can't be set."""
    tree = to_dict(Config())
    flat = {}
    for key in config_keys():
        section, _, leaf = key.rpartition(".")
        flat[key] = tree[section][leaf] if section else tree[key]
    assert len(flat) > 30
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
    assert read_config(options) == Config()
    assert read_config(write(yaml.safe_dump(tree))) == Config()


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("data: {crop_sise: 3}", "data.crop_sise", "data.crop_size"),
        ("sede: 1", "sede", "seed"),
        ("optimizer:\n  learning_rte: 1", "optimizer.learning_rte", "optimizer.learning_rate"),
        ("crop_size: 3", "crop_size", "data.crop_size"),
    ],
)
def test_unknown_key_in_a_file_names_the_nearest(write, text, wrong, right):
    message = refusal(*write(text))
    assert f"'{wrong}'" in message and f"did you mean '{right}'?" in message and "given.yaml" in message


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("--data.crop_sise=3", "data.crop_size"),
        ("--train.total_sample", "train.total_samples"),
        ("--shards", "data.shards"),
        ("--rundir", "run_dir"),
    ],
)
def test_unknown_option_names_the_nearest(word, right):
    message = refusal(word, "3")
    assert f"'{word[2:].split('=')[0]}'" in message and f"did you mean '{right}'?" in message


def test_unknown_key_near_nothing_is_refused_without_a_guess():
    assert "did you mean" not in refusal("--zzzzzz", "3")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.crop_size", "big"),
        ("data.crop_size", "32.5"),
        ("seed", "1.5"),
        ("network.widths", "8"),
        ("network.widths", "[8, wide]"),
        ("data.resample_noise", "maybe"),
        ("tracking.wandb", "3"),
        ("optimizer.learning_rate", "fast"),
        ("optimizer.learning_rate", ".nan"),
        ("optimizer.learning_rate", ".inf"),
        ("ardae.sigma_a", "0.5"),
        ("network.name", "vgg"),
        ("optimizer.name", "sgd"),
        ("optimizer.schedule", "linear"),
        ("ardae.coordinates", "polar"),
        ("train.mixed_precision", "fp8"),
        ("method", "noise2clean"),
    ],
)
def test_wrong_types_and_choices_name_their_key(write, key, value):
    section, _, leaf = key.rpartition(".")
    assert key in refusal(f"--{key}", value)
    assert key in refusal(*write(f"{section}: {{{leaf}: {value}}}" if section else f"{key}: {value}"))


def test_a_wrong_choice_lists_the_right_ones():
    message = refusal("--network.name", "vgg")
    assert "resunet" in message and "unet_n2n" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "-1"),
        ("seed", str(2**64)),  # hashes take 64-bit words
        ("data.crop_size", "0"),
        ("data.num_threads", "0"),
        ("network.blocks", "0"),
        ("network.widths", "[]"),
        ("network.widths", "[8,0]"),
        ("optimizer.learning_rate", "0"),
        ("optimizer.learning_rate", "-1"),
        ("optimizer.betas", "[0.9]"),
        ("optimizer.betas", "[0.9,1]"),
        ("optimizer.momentum", "1"),
        ("optimizer.clip_norm", "-1"),
        ("optimizer.weight_decay", "-0.1"),
        ("optimizer.ema_halflife_samples", "-1"),
        ("ardae.sigma_a", "[0.5]"),
        ("ardae.sigma_a", "[0,0]"),
        ("ardae.sigma_a", "[-1,1]"),
        ("ardae.sigma_a", "[.nan,1]"),
        ("ardae.sigma_a", "[0,.inf]"),
        ("optimizer.step_factor", "-1"),
        ("optimizer.step_factor", ".nan"),
        ("train.total_samples", "0"),
        ("train.global_batch_size", "0"),
        ("train.device_batch_size", "-2"),
        ("train.keep_checkpoints", "0"),
        ("train.log_every_samples", "0"),
        ("train.num_threads", "-1"),
    ],
)
def test_values_out_of_range_name_their_key(key, value):
    assert key in refusal(f"--{key}", value)


@pytest.mark.parametrize(
    ("option", "said"), [("--network.widths=[8,12]", "multiples of 8"), ("--network.name=unet_n2n", "is for resunet")]
)
def test_a_symmetric_network_takes_groups_of_eight_channels_and_no_biases(option, said):
    assert said in refusal("--network.symmetric=true", option)


@pytest.mark.parametrize(
    "noise", ["gaussian", "gaussian:", "gaussian:0", "gauss:25", "poisson:2", "gamma:1", "gaussian:nan"]
)
def test_noise_is_checked_with_the_rest(noise):
    message = refusal("--noise", noise)
    assert f"'{noise}'" in message and "gaussian:SIGMA" in message


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "seed", "- seed", "data: [1", "seed: 1\n  noise: 2", "\tseed: 1", b"\xff\xfe\x00binary\x00"],
    ids=["empty", "comment", "word", "list", "unclosed", "indent", "tab", "binary"],
)
def test_files_that_are_not_settings_are_named(write, text):
    assert "given.yaml" in refusal(*write(text))


def test_missing_file_and_folder_are_named(tmp_path):
    assert str(tmp_path / "no.yaml") in refusal("--config", str(tmp_path / "no.yaml"))
    assert str(tmp_path) in refusal(f"--config={tmp_path}")


@pytest.mark.parametrize("arguments", [["train"], ["--seed"], ["--config"], ["--seed", "1", "2"]])
def test_stray_words_and_missing_values_are_refused(arguments):
    refusal(*arguments)


def test_the_perturbation_follows_the_noise_unless_given():
    """The paper anneals 0.05 -> 0.001, and 1 -> 0.5 in counts for Poisson noise (Kim & Ye 2021)."""
    image = ["--ardae.coordinates", "image"]
    assert read_config([]).sigma_a == (0.0, 1.0)
    assert read_config(image).sigma_a == (0.05, 0.001)
    assert read_config([*image, "--noise", "poisson:0.01"]).sigma_a == (1.0, 0.5)
    assert read_config([*image, "--ardae.sigma_a", "[0.3,0.2]"]).sigma_a == (0.3, 0.2)


def test_round_trip_through_a_dictionary_json_and_yaml(write):
    config = read_config(["--noise", "gamma:50", "--seed", "7", "--network.widths", "[8,16]", "--run_dir", "runs/a"])
    assert from_dict(to_dict(config), "here") == config
    assert from_dict(json.loads(json.dumps(to_dict(config))), "here") == config
    assert read_config(write(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize("change", [{"color": 1}, {"data": {"color": 1}}, {"seed": -1}, {"noise": "pink:1"}])
def test_dictionaries_that_are_no_configuration_are_refused(change):
    with pytest.raises(UserError):
        from_dict({**to_dict(Config()), **change}, "model.json")


@pytest.mark.parametrize("value", ["1e-5", "1e-05", "1e5", "2.5e-07", "0.00001", "3"])
def test_numbers_may_be_written_as_people_write_them(write, value):
    """JSON's 1e-05 is a string to YAML 1.1."""
    for config in (
        read_config(["--optimizer.learning_rate", value]),
        read_config(write(f"optimizer: {{learning_rate: {value}}}")),
    ):
        assert config.optimizer.learning_rate == float(value)
        again = from_dict(json.loads(json.dumps(to_dict(config))), "here")
        assert again == from_dict(to_dict(config), "here") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_files_parse(path):
    config = read_config(["--config", str(path)])
    assert from_dict(to_dict(config), "here") == config


def test_there_are_shipped_files():
    assert len(CONFIGS) >= 2


def test_program_ends_with_one_line_and_code_2(run_module):
    """Through the real program, where jsonargparse, argparse and accelerate could each have their say."""
    done = run_module("n2s_dist.train", "--config", CONFIGS[0], "--data.crop_sise", 3)
    assert done.err.splitlines() == [done.error()]
    assert "data.crop_sise" in done.error() and "data.crop_size" in done.error()
