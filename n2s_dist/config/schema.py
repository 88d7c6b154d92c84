"""The configuration of a training run: typed, nested and strict.

Settings that contradict each other are refused before any device is touched. training/command_line.py reads them.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from n2s_dist.config.checks import check
from n2s_dist.noise.base import Coordinates
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.utils.errors import UserError

Precision = Literal["no", "bf16", "fp16"]
CompileMode = Literal["no", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
DeviceChoice = Literal["auto", "gpu", "cpu"]
ExtraView = Literal["clean", "noisy"]
ConditionKind = Literal["families", "map"]


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Args:
        shards: folder made by n2s build-shards, or the URL of its copy (http, https, s3, or another of fsspec's)
        cache_dir: where shards from a URL are kept; empty takes $XDG_CACHE_HOME/n2s_dist or ~/.cache/n2s_dist
        cache_gib: most that cache_dir may hold, over all runs that share it
        crop_size: side of a training crop in pixels
        resample_noise: draw fresh noise every time a crop is seen, instead of one noisy version of each image
        num_threads: threads of the loader on each rank
        window_shards: 0 shuffles the whole set; more reads shuffled shards through windows of so many in each lane,
            for sets larger than a node's cache
        lanes: parts of the global batch with windows of their own, at least as many as nodes; 0 takes the largest
            power of two up to 64 that batch and shards allow
    """

    shards: str = ""
    cache_dir: str = ""
    cache_gib: float = 100.0
    crop_size: int = 64
    resample_noise: bool = False
    num_threads: int = 1
    window_shards: int = 0
    lanes: int = 0


@dataclass(frozen=True)
class ArdaeConfig:
    """The AR-DAE perturbation.

    Args:
        coordinates: stable (sigma_a in noise standard deviations, drawn from the interval for each crop) or image (the
            paper's annealing from the first to the second value over the run)
        sigma_a: the interval; empty takes [0, 1] for stable and the paper's endpoints for image
        whole_range: perturb more where it takes more to reach a level drawn from the whole range of the crop's family;
            for noise of several levels
        focus: with whole_range, the part of each range to draw from, such as gaussian:22-28, for a network that is
            best there; validation then is on such noise. Empty draws from all of it
        overstated: with whole_range, the share of crops that are told a higher level than they have, up to the one
            drawn, so that a level named too high does no harm
        constant: the share of crops in which an area is made constant, clipped or a pattern: it has no noise, whatever
            level is told, and the network learns to leave it alone
    """

    coordinates: Coordinates = "stable"
    sigma_a: list[float] = field(default_factory=list)
    whole_range: bool = False
    focus: str = ""
    overstated: float = 0.0
    constant: float = 0.0


@dataclass(frozen=True)
class NetworkConfig:
    """The network inside the score model.

    Args:
        name: which network (models/base.py lists them)
        options: its own, by name; what is left out has its default. In files and on the command line they stand beside
            the name: network.widths
        condition: what it is told of the noise: families (which of gaussian, poisson and gamma, and the level) or map
            (the noise's strength at every value, and the width of its correlation), which takes noise of any family
    """

    name: str = "resunet"
    options: dict[str, Any] = field(default_factory=dict)
    condition: ConditionKind = "families"

    @classmethod
    def of_section(cls, section: dict[str, Any]) -> "NetworkConfig":
        """From its dictionary in a file. Options are checked where the networks are."""
        own = {key: value for key, value in section.items() if key in ("name", "condition")}
        return cls(options={key: value for key, value in section.items() if key not in own}, **own)

    def to_section(self) -> dict[str, Any]:
        """As it is written to files."""
        return {"name": self.name, **self.options, "condition": self.condition}


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move. All lengths are in samples.

    Args:
        name: adamw, adam, or muon (which leaves the network's first and last layer and all biases to AdamW)
        learning_rate: the peak (cosine) or initial (step) learning rate
        betas: decay rates of Adam's two averages
        momentum: of muon
        weight_decay: of adamw and muon
        schedule: cosine (linear warm-up, then half a cosine to zero), step, or wsd (linear warm-up, a constant rate, a
            decay to zero), whose runs can be prolonged by a larger train.total_samples
        warmup_samples: length of the warm-up of cosine, where it is at most a quarter of the run, and of wsd
        decay_samples: length of wsd's decay at the end of the run
        step_every_samples: the step schedule multiplies the rate by step_factor this often
        step_factor: see step_every_samples
        clip_norm: largest gradient norm; 0 leaves gradients alone
        ema_halflife_samples: half-life of the average of the weights that is evaluated; 0 turns it off
    """

    name: Literal["adamw", "adam", "muon"] = "adamw"
    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    momentum: float = 0.95
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step", "wsd"] = "cosine"
    warmup_samples: int = 1_600
    decay_samples: int = 8_000
    step_every_samples: int = 20_000
    step_factor: float = 0.1
    clip_norm: float = 1.0
    ema_halflife_samples: int = 2_000


@dataclass(frozen=True)
class TrainConfig:
    """How long, in what portions, and what is kept.

    Args:
        start_from: weights to begin with: a run, a checkpoint or the name of a shipped network, of the same network,
            channels and kind of noise; a plain network can also start from a symmetric one, one that is told maps
            from one that is told families, and one with more channels or blocks from a smaller one; empty draws them
        total_samples: crops to train on, rounded up to whole batches
        global_batch_size: crops in one optimizer step, over all ranks
        device_batch_size: most crops one rank holds at a time; gradient accumulation makes up the rest
        device: auto is GPUs where there are any; gpu ends where there is none
        mixed_precision: no, bf16 or fp16; auto is bf16 where the device calculates in it, else no. With no, a GPU
            rounds what training convolves to TF32's 11 bits, as PyTorch does by default; inference keeps all bits
        compile: no, or how torch.compile runs the model: default, max-autotune-no-cudagraphs, or with CUDA graphs, on
            one rank that holds its batches whole: reduce-overhead, max-autotune
        channels_last: keep images and weights with channels innermost, as tensor cores read them
        num_threads: CPU threads a rank computes with; 0 shares the machine's cores among its ranks
        checkpoint_every_samples: how often to save
        keep_checkpoints: how many of the newest to keep; the best one is kept as well
        validate_every_samples: how often to measure on the held-out images
        validation_tiles: at most this many held-out tiles
        log_every_samples: how often to write metrics
        profile_steps: record so many steps, after a few to warm up, in RUN_DIR/profile/rank-*.json; 0 records none
        hang_sec: when no step ends for so long (the first has ten minutes at least), each rank writes what its threads
            were doing and ends; 0 waits for ever
    """

    start_from: str = ""
    total_samples: int = 40_000
    global_batch_size: int = 16
    device_batch_size: int = 16
    device: DeviceChoice = "auto"
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    compile: CompileMode = "no"
    channels_last: bool = False
    num_threads: int = 0
    checkpoint_every_samples: int = 8_000
    keep_checkpoints: int = 2
    validate_every_samples: int = 8_000
    validation_tiles: int = 32
    log_every_samples: int = 800
    profile_steps: int = 0
    hang_sec: float = 600.0


@dataclass(frozen=True)
class TrackingConfig:
    """Where curves go besides RUN_DIR/metrics.jsonl.

    Args:
        wandb: log to Weights & Biases; offline by itself when there is no key or no network
        project: wandb project
        name: wandb run name; empty takes the run directory's
    """

    wandb: bool = True
    project: str = "n2s_dist"
    name: str = ""


@dataclass(frozen=True)
class Config:
    """One experiment.

    Args:
        run_dir: where checkpoints, metrics and the frozen configuration go; an existing run is continued
        noise: gaussian:SIGMA (sigma in 8-bit levels), poisson:ZETA, gamma:K, poisson-gaussian:ZETA:SIGMA or another
            family; ranges of them, gaussian:5-55,gamma:20-200; each correlated, gaussian:5-55+blur:0-1.2 (width in
            pixels; 0.3x1.2: along rows, down columns), +rows:SHARE, +columns:SHARE, +channels:CORRELATION
        method: ardae (Noise2Score), or a baseline: noise2void, sure or r2r (Recorrupted-to-Recorrupted), which see
            noisy pixels alone, noise2noise, which sees two noisy versions of each image, or supervised, which sees
            clean pixels
        seed: of weights, order, crops, noise and perturbations
    """

    run_dir: str = ""
    noise: str = "gaussian:25"
    method: str = "ardae"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    ardae: ArdaeConfig = field(default_factory=ArdaeConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check(self)

    @cached_property
    def aim(self) -> NoiseDistribution:
        """The noise that the network is to be best at: ardae.focus, or all that it trains on."""
        return parse_training_noise(self.ardae.focus or self.noise)

    @property
    def sigma_a(self) -> tuple[float, float]:
        """The perturbation's interval, with the law's own default filled in."""
        if self.ardae.sigma_a:
            return (self.ardae.sigma_a[0], self.ardae.sigma_a[1])
        if self.ardae.coordinates == "stable":
            return (0.0, 1.0)
        ends = parse_training_noise(self.noise).paper_sigma_a
        assert ends, "the checks refuse noise without natural coordinates"
        return ends


def to_dict(config: Config) -> dict[str, Any]:
    """All settings, nested, as files hold them."""
    return {**dataclasses.asdict(config), "network": config.network.to_section()}


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys, as on a command line."""
    nested = [flatten(v, f"{prefix}{k}.") if isinstance(v, dict) else {prefix + k: v} for k, v in settings.items()]
    return {key: value for part in nested for key, value in part.items()}


def from_dict(data: dict[str, Any], where: str) -> Config:
    """A Config from its dictionary (as in a checkpoint); UserError when it isn't one."""
    sections = {
        f.name: f.default_factory for f in dataclasses.fields(Config) if f.default_factory is not dataclasses.MISSING
    }
    try:
        values = {key: value for key, value in data.items() if key != "config"}
        if strange := [
            *_strange(values, Config),
            *(k for s in sections if s != "network" for k in _strange(values.get(s, {}), sections[s], s)),
        ]:
            raise UserError(f"{where} holds a setting that this version of n2s_dist does not know: {strange[0]}")
        made = {key: sections[key](**values[key]) for key in values if key in sections and key != "network"}
        if "network" in values:
            made["network"] = NetworkConfig.of_section(values["network"])
        return Config(**{**values, **made})
    except (TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a configuration of this program: {error}") from None


def _strange(values: dict[str, Any], kind: Any, section: str = "") -> list[str]:
    """Dotted keys that a section does not have."""
    known = {f.name for f in dataclasses.fields(kind)}
    return [f"{section}.{key}".lstrip(".") for key in values if key not in known]
