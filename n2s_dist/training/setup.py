"""A training run made ready on one rank: shards, model, its average, optimizer, and where it stands.

Starting and resuming are one function: all but weights, their average and the optimizer's moments
follows from samples_seen.
"""

import copy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from n2s_dist.config.schema import Config, flatten, to_dict
from n2s_dist.distributed import stop_signals, watchdog
from n2s_dist.distributed.meeting import Meeting
from n2s_dist.distributed.ranks import FOREVER, Ranks
from n2s_dist.loading import windowed_order
from n2s_dist.loading.crop_inputs import check_crop_size, check_noise
from n2s_dist.loading.remote_cache import open_store
from n2s_dist.losses.base import loss_of
from n2s_dist.models import checkpoint
from n2s_dist.models.base import resolved
from n2s_dist.models.conditioning import as_told_maps
from n2s_dist.models.equivariance import make_plain, symmetric_weights
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.compilation import check_compiler, compile_model, match_layout, place
from n2s_dist.training.optimizers.muon import Muon
from n2s_dist.training.schedules import may_go_on
from n2s_dist.training.state import TrainState
from n2s_dist.training.telemetry import StepTelemetry
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.stopwatch import Stopwatch

_AFTER_WATCHDOG_SEC = 60.0
# What may change when a run is continued; anything else would make it another run.
_MAY_CHANGE = (
    "run_dir",
    "data.shards",
    "data.cache_",
    "data.num_threads",
    "train.device_batch_size",
    "train.num_threads",
    "train.checkpoint_every_samples",
    "train.keep_checkpoints",
    "train.validate_every_samples",
    "train.validation_tiles",
    "train.log_every_samples",
    "train.device",
    "train.mixed_precision",
    "train.compile",
    "train.channels_last",
    "train.profile_steps",
    "train.hang_sec",
    "tracking.",
)
_MAY_CHANGE_BEFORE_DECAY = ("train.total_samples", "optimizer.decay_samples")


def start(config: Config, stopwatch: Stopwatch | None = None, meeting: Meeting | None = None) -> TrainState:
    """Open shards and ranks, build or resume the model, and freeze the configuration into the run directory."""
    stopwatch, meeting = stopwatch or Stopwatch(), meeting or Meeting()
    if not config.data.shards:
        raise UserError("--data.shards is missing: build shards with n2s build-shards SOURCE --out DIR")
    store = open_store(config.data.shards, config.data.cache_dir, config.data.cache_gib)
    shards = ShardSet(store)
    check_crop_size(shards, config.data.crop_size)
    check_noise(shards, config.noise, config.data.resample_noise)
    check_method(shards, config)
    windows = open_windows(config, shards)
    validation = ShardSet(store, "validation") if "validation" in shards.manifest.splits else None
    run_dir = Path(config.run_dir)
    meeting.compare("shards", store.digests, "give all nodes the same shards")
    found, start_from = choose_weights(config, meeting)
    if found is not None:
        before = checkpoint.load(found)
        check_same_run(config, before.config, before.samples_seen, run_dir)
        if before.shards_fingerprint not in shards.manifest.identities:
            raise UserError(
                f"{run_dir} was trained on other shards than {shards.folder}: give the same ones or another --run-dir"
            )

    stopwatch.lap("shards and checkpoint")
    micro_batch_size = choose_micro_batch_size(config, meeting.launch.world_size)
    check_compile(config, meeting.launch.world_size)
    check_compiler(config.train.compile)
    plan = config.train
    ranks = Ranks(plan.mixed_precision, plan.num_threads, meeting, plan.device, patience_of(plan.hang_sec))
    stopwatch.lap("ranks")
    torch.manual_seed(int(hashing.hash64(config.seed, hashing.STREAM_WEIGHTS)) >> 1)
    model = build_score_model(config, shards.manifest.channels)
    if start_from:
        load_first_weights(model, start_from)
    model = place(model, ranks.device, config.train.channels_last)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    meeting.ready()  # what comes next is done together
    ddp_model, optimizer = ranks.prepare(model, build_optimizer(config, model))
    compile_model(model, config.train.compile)
    telemetry = StepTelemetry(
        ranks, ema, model, channels=shards.manifest.channels, crop_size=config.data.crop_size,
        method=config.method, mixed_precision=ranks.precision, profile_dir=run_dir / "profile",
        profile_steps=config.train.profile_steps,
    )  # fmt: skip
    run = TrainState(
        config, ranks, shards, validation, model, ema, ddp_model, optimizer, micro_batch_size, windows, telemetry
    )
    if found is not None:
        resume(run, found)
    meeting.ready()
    meeting.close()
    run.check_ranks_agree()
    if ranks.is_main:
        stop_signals.remove_note(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
        micro_batches = config.train.global_batch_size // ranks.world_size // micro_batch_size
        standing = f"starting {run_dir}" + (f" from the weights of {config.train.start_from}" if start_from else "")
        if found:
            done = run.samples_seen >= config.train.total_samples
            standing = f"{found} is complete: nothing to do" if done else f"going on from {found}"
        precision = "" if ranks.precision == "no" else f" in {ranks.precision}"
        parameters = sum(parameter.numel() for parameter in model.parameters())
        shuffled = f" in windows of {windows.window_shards} shards, {windows.lanes} lanes" if windows else ""
        print(
            f"{config.network.name}, {parameters / 1e6:.2f} M parameters; {len(shards)} tiles of {shards.split.images} "
            f"images{shuffled}\n{ranks.world_size} rank(s) on {ranks.device.type}{precision}, each {micro_batches} x "
            f"{micro_batch_size} crops a step\n{standing}"
        )
    stopwatch.lap("model")
    run.stopwatch = stopwatch
    return run


def patience_of(hang_sec: float) -> timedelta:
    """How long ranks wait for each other: longer than the watchdog, which says what all of them were doing."""
    if not hang_sec:
        return FOREVER
    return min(timedelta(seconds=watchdog.longest_sec(hang_sec) + _AFTER_WATCHDOG_SEC), FOREVER)


def build_optimizer(config: Config, model: ScoreModel) -> torch.optim.Optimizer:
    """The optimizer over all weights, before any step."""
    plan = config.optimizer
    options: dict[str, Any] = {"lr": plan.learning_rate, "betas": tuple(plan.betas)}
    if plan.name == "adam":
        return torch.optim.Adam(model.parameters(), fused=True, **options)
    options["weight_decay"] = plan.weight_decay
    if plan.name == "adamw":
        return torch.optim.AdamW(model.parameters(), fused=True, **options)
    hidden = model.network.hidden_weights()
    chosen = {id(weight) for weight in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return Muon(hidden, rest, momentum=plan.momentum, symmetric=symmetric_weights(model), **options)


def choose_weights(config: Config, meeting: Meeting) -> tuple[Path | None, Path | None]:
    """The checkpoint to go on from, else the weights to start from, if any: rank 0 chooses, all others have the same.

    A folder that somebody else is writing into may hold others a moment later.
    """

    def choose() -> list[str]:
        run_dir = Path(config.run_dir)
        found = checkpoint.newest_valid(run_dir, partial(may_go_on, config)) or checkpoint.newest_valid(run_dir)
        if found is not None:
            return ["found", str(found)]
        return ["start_from", str(checkpoint.locate(config.train.start_from))] if config.train.start_from else []

    chosen = meeting.from_main(choose)
    if not chosen:
        return None, None
    kind, path = chosen[0], Path(chosen[1])
    checkpoint.compare(meeting, [path])
    return (path, None) if kind == "found" else (None, path)


def load_first_weights(model: ScoreModel, path: Path) -> None:
    """Begin with the weights of another run or of a shipped network.

    A network that is told maps may begin with one that is told families, and one with more channels or blocks with a
    smaller one.
    """
    loaded = checkpoint.load(path)
    source = loaded.model
    if not symmetric_weights(model):
        make_plain(source)
    weights = source.state_dict()
    if model.condition_kind == "map" and source.condition_kind == "families" and not source.noise.is_single:
        first = next(name for name, weight in weights.items() if weight.ndim == 4)
        weights[first] = as_told_maps(weights[first], loaded.channels)
    prefix = "network."
    inner = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    weights |= {prefix + name: weight for name, weight in model.network.enlarged(inner).items()}
    checkpoint.load_weights(model, weights, path)


def resume(run: TrainState, path: Path) -> None:
    """Take up weights, average, optimizer and loss scale; all else follows from samples_seen."""
    loaded, state = checkpoint.load(path), checkpoint.load_training_state(path)
    run.ema.load_state_dict(loaded.model.state_dict())
    run.model.load_state_dict(state["weights"])
    run.optimizer.load_state_dict(state["optimizer"])
    match_layout(run.optimizer)
    run.ranks.load_scaler_state(state["loss_scale"])
    run.samples_seen = run.saved_at = loaded.samples_seen


def check_method(shards: ShardSet, config: Config) -> None:
    """UserError when tiles hold less than the method sees."""
    extra_view = loss_of(config.method).extra_view
    if extra_view and shards.noise:
        seen = {"clean": "clean pixels", "noisy": "a second noisy version of each image"}[extra_view]
        raise UserError(
            f"method {config.method} sees {seen}, but {shards.folder} holds tiles with their noise in them: "
            f"build them without --noise, or choose a method that sees noisy pixels alone, such as {Config.method}"
        )


def open_windows(config: Config, shards: ShardSet) -> windowed_order.WindowedOrder | None:
    """The order of a set larger than a node's cache, where the configuration asks for it."""
    if not config.data.window_shards:
        return None
    sizes = [entry.samples for entry in shards.split.shards]
    return windowed_order.WindowedOrder(
        config.seed, sizes, config.train.global_batch_size, config.data.window_shards, config.data.lanes
    )


def choose_micro_batch_size(config: Config, world_size: int) -> int:
    """Crops a rank holds at a time: at most device_batch_size, and a divisor of its share of the global batch."""
    share, rest = divmod(config.train.global_batch_size, world_size)
    if rest:
        raise UserError(
            f"train.global_batch_size {config.train.global_batch_size} does not divide over {world_size} ranks: "
            f"take a multiple of {world_size}"
        )
    return next(size for size in range(min(config.train.device_batch_size, share), 0, -1) if share % size == 0)


def check_compile(config: Config, world_size: int) -> None:
    """UserError for CUDA graphs where gradients would be wrong.

    A graph's backward pass writes gradients to memory of its own. The next micro-batch overwrites them before they are
    added up. And exchanges between ranks, which run while gradients are made, are not part of a graph.
    """
    size, mode = choose_micro_batch_size(config, world_size), config.train.compile
    if mode not in ("reduce-overhead", "max-autotune"):
        return
    share = config.train.global_batch_size // world_size
    if world_size > 1:
        raise UserError(
            f"train.compile {mode} takes CUDA graphs, which are for one rank, and this run has {world_size}: "
            "give default or max-autotune-no-cudagraphs"
        )
    if size < share:
        raise UserError(
            f"train.compile {mode} takes CUDA graphs, which are for batches held whole: give train.device_batch_size "
            f"{share}, or train.compile default or max-autotune-no-cudagraphs"
        )


def check_same_run(config: Config, before: Config, samples_seen: int, run_dir: Path) -> None:
    """A run is continued with the settings it began with, and where it stands at samples_seen with another length."""
    now, then = flatten(to_dict(resolved(config))), flatten(to_dict(resolved(before)))
    may_change = _MAY_CHANGE + (_MAY_CHANGE_BEFORE_DECAY if may_go_on(config, before, samples_seen) else ())
    for key in now:
        if now[key] != then.get(key) and not key.startswith(may_change):
            raise UserError(
                f"{run_dir} was trained with {key} {then.get(key)}, not {now[key]}: "
                "go on with the same settings, or choose another --run-dir"
            )
