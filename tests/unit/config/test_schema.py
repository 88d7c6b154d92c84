"""Configurations: files and options, and everything that is refused before a device is touched."""

import json

import pytest
import yaml
from support.paths import ROOT

from n2s_dist.config.schema import Config, from_dict, to_dict
from n2s_dist.models.base import resolved
from n2s_dist.training.command_line import read_config
from n2s_dist.training.config_options import config_keys
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
    assert read_config([]) == resolved(Config())


def test_options_override_the_file_which_overrides_defaults(write):
    file = write("noise: poisson:0.05\nseed: 3\ndata: {crop_size: 48}\nnetwork: {widths: [4, 8]}\n")
    config = read_config([*file, "--seed", "4", "--data.resample_noise", "true", "--optimizer.betas=[0.5,0.6]"])
    assert (config.noise, config.data.crop_size, config.network.options["widths"]) == ("poisson:0.05", 48, [4, 8])
    assert (config.seed, config.data.resample_noise, config.optimizer.betas) == (4, True, [0.5, 0.6])
    assert config.train == Config().train


def test_every_key_is_an_option_and_a_file_key(write):
    """All keys at once, with the default values: nothing is listed that can't be set."""
    tree = to_dict(resolved(Config()))
    flat = {}
    for key in config_keys():
        section, _, leaf = key.rpartition(".")
        flat[key] = tree[section][leaf] if section else tree[key]
    assert len(flat) > 30
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
    assert read_config(options) == resolved(Config())
    assert read_config(write(yaml.safe_dump(tree))) == resolved(Config())


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


# --- what YAML 1.1 reads otherwise than it looks --------------------------------------------------------


def test_a_section_that_comes_twice_is_refused_with_both_lines(write):
    """The first one was dropped without a word."""
    message = refusal(*write("train:\n  total_samples: 100\nseed: 3\ntrain:\n  device_batch_size: 4\n"))
    assert "given.yaml" in message and "'train' comes twice, in lines 1 and 4" in message
    assert "'crop_size' comes twice" in refusal(*write("data:\n  crop_size: 32\n  crop_size: 48\n"))


@pytest.mark.parametrize("word", ["010", "-010", "0o10", "0x10", "0b11", "1:30", "1:30.5", "00"])
@pytest.mark.parametrize("key", ["seed", "optimizer.learning_rate", "network.widths"])
def test_a_number_in_another_system_is_refused_not_converted(write, key, word):
    word = f"[{word}, 8]" if key == "network.widths" else word
    section, _, leaf = key.rpartition(".")
    in_file = refusal(*write(f"{section}:\n  {leaf}: {word}\n" if section else f"{key}: {word}\n"))
    assert f"{key} is {word} in" in in_file and "decimal" in in_file
    assert f"{key} is {word} on the command line" in refusal(f"--{key}={word}")


@pytest.mark.parametrize(
    ("key", "word", "value"),
    [
        ("train.mixed_precision", "no", "no"),
        ("train.compile", "no", "no"),
        ("tracking.wandb", "off", False),
        ("tracking.wandb", "'false'", False),
        ("network.symmetric", "yes", True),
        ("tracking.name", "007", "007"),
        ("tracking.name", "on", "on"),
        ("tracking.name", "2024-01-01", "2024-01-01"),
        ("tracking.name", "1:30", "1:30"),
        ("tracking.project", "1e3", "1e3"),
        ("train.total_samples", "10_000", 10_000),
    ],
)
def test_a_word_means_what_its_key_takes_in_a_file_and_on_the_command_line(write, key, word, value):
    section, _, leaf = key.rpartition(".")
    for config in (read_config(write(f"{section}:\n  {leaf}: {word}\n")), read_config([f"--{key}", word.strip("'")])):
        assert to_dict(config)[section][leaf] == value


def test_a_wrong_word_is_named_as_it_was_written_with_what_the_key_takes(write):
    assert "train.mixed_precision is off in" in (message := refusal(*write("train: {mixed_precision: off}")))
    assert message.endswith("it takes one of no, bf16, fp16, auto")
    assert refusal("--train.total_samples", "1e4").endswith("is 1e4 on the command line: it takes a whole number")
    assert refusal(*write("train: 80")).startswith("train is 80 in") and "section" in refusal(*write("train: 80"))


def test_keys_and_sections_without_a_value_keep_the_default(write):
    assert read_config(write("train:\ndata:\n  crop_size:\nrun_dir: ~\nseed: null\n")) == read_config([])
    assert "unknown key 'sede'" in refusal(*write("sede:\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_unicode_encoding_is_read(write, encoding):
    assert read_config(write("tracking: {name: größer}\n".encode(encoding))).tracking.name == "größer"


def test_options_before_and_after_a_file_count_in_their_order(write):
    file = write("seed: 3\nnoise: poisson:0.05\n")
    assert read_config(["--seed=1", *file]).seed == 3 and read_config([*file, "--seed=1"]).seed == 1
    assert read_config([*file, "--seed", "1"]).noise == "poisson:0.05"


@pytest.mark.parametrize("key", ["run_dir", "data.shards", "data.cache_dir", "train.start_from"])
def test_home_and_variables_in_paths_are_filled_in(write, monkeypatch, key):
    """A shell does so in `--run_dir ~/a`, but not in `--run_dir=~/a`, and nobody does in a file."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    section, _, leaf = key.rpartition(".")
    for word, path in {"~/a": "/home/me/a", "$SCRATCH/b": "/scratch/me/b", "${SCRATCH}c": "/scratch/mec"}.items():
        text = f"{section}:\n  {leaf}: {word}\n" if section else f"{leaf}: {word}\n"
        for config in (read_config(write(text)), read_config([f"--{key}={word}"])):
            assert (getattr(getattr(config, section), leaf) if section else config.run_dir) == path
    assert read_config(["--data.shards=s3://bucket/~a"]).data.shards == "s3://bucket/~a"


def test_a_path_with_an_unknown_variable_or_user_is_refused(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    assert "the environment has no NOWHERE" in refusal("--run_dir=$NOWHERE/a")
    assert "no home folder is known for ~nobody-of-this-name" in refusal("--data.shards=~nobody-of-this-name/a")
