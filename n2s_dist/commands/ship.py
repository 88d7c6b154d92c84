"""Make a trained network part of the package: weights, description and model card in n2s_dist/weights.

n2s ship runs/universal --name universal-color --data bsd400 --hardware "one core of an AMD EPYC (Zen 5)"
n2s ship runs/universal --name universal-color --results runs/table2/results.json

A network must leave alone what has no noise, whatever level it is told (acceptance.py), or it is refused. With
--despite-findings it is taken all the same, but only where it is named.
The averaged weights of the newest checkpoint are stored as float16 where that changes the PSNR on scikit-image's
photographs by less than 0.001 dB, otherwise as float32. Those PSNRs are recorded beside them, for a test to compare
with. --results adds to the card what `n2s evaluate --suite table2` found for this network, under its run directory
or under its name.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from n2s_dist.config.schema import to_dict
from n2s_dist.datasets.catalogue import find_dataset, known_names
from n2s_dist.images.files import KINDS
from n2s_dist.inference import acceptance
from n2s_dist.inference.reference_photographs import largest_difference_db, measure_photographs
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.noise.specification import format_training_noise
from n2s_dist.reporting.curves import read_metrics, training_hours
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, path_option

MAX_DIFFERENCE_DB = 0.001

CARD = """\
# {name}

Removes {noise} noise from {color} images
(sigma in 8-bit levels, zeta the intensity of a photon, k the shape). Trained by Noise2Score's AR-DAE loss in
{coordinates} coordinates, from noisy images alone, {version}; it never read a clean pixel.

- Network: {network}, {parameters:,} parameters, stored as {storage} ({mib:.1f} MiB).
- Data: {description}, {licence}.
- Budget: {budget}.
- Versions: {versions}.

## Figures

PSNR in dB, of each image, then their mean. Noise is neither clipped nor quantised, estimates are clamped to [0, 1].
None of these images, clean or noisy, was trained on, nor used to choose a checkpoint or a setting. That training went
on for another run was decided with the figures of the runs before known.

{table}

## Limits

{limits}
- It was trained on photographs of everyday scenes. In microscopy, medicine or astronomy it may remove or invent
  structure: check with `--uncertainty` and against data whose truth is known.
- A denoised image is a posterior mean: where the noise hides texture, it is smoother than the truth.

## Licence

The code is MIT-licensed. The training images: {licence}.
Whether that binds weights learned from them is not settled: take them for the same purposes, or train your own.
{citation}
"""


def scrubbed(loaded: checkpoint.Loaded) -> dict[str, Any]:
    """The configuration without what it says of the machine that trained."""
    config = loaded.config
    tracking = dataclasses.replace(config.tracking, wandb=False, name="")
    data = dataclasses.replace(config.data, shards="", cache_dir="")
    named = config.train.start_from if pretrained.is_shipped(config.train.start_from) else ""
    train = dataclasses.replace(config.train, start_from=named)
    return to_dict(dataclasses.replace(config, run_dir="", data=data, train=train, tracking=tracking))


def stored(loaded: checkpoint.Loaded) -> tuple[dict[str, Tensor], str, list[dict[str, Any]]]:
    """The weights in the smaller type that will do, its name, and PSNR with them; the model is left holding them."""
    model = loaded.model
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    exact = measure_photographs(model, loaded.channels, loaded.config.aim)
    halves = {name: tensor.half() for name, tensor in weights.items()}
    model.load_state_dict(halves)
    rounded = measure_photographs(model, loaded.channels, loaded.config.aim)
    if largest_difference_db(exact, rounded) < MAX_DIFFERENCE_DB:
        return halves, "float16", rounded
    model.load_state_dict(weights)
    return weights, "float32", exact


def budgets(loaded: checkpoint.Loaded, run_dir: Path, hardware: list[str]) -> list[str]:
    """What each of the runs that began with each other's weights trained on, and for how long, the first one first.

    hardware: of each of the last runs, the last one last; earlier ones had the first of these.
    """
    config, size, before = loaded.config, loaded.config.data.crop_size, loaded.config.train.start_from
    earlier: list[str] = []
    if pretrained.is_shipped(before):
        earlier = json.loads(pretrained.files(before)[1].read_text())["budget"]
    elif before:
        earlier = budgets(checkpoint.load(checkpoint.locate(before)), Path(before), hardware[:-1] or hardware)
    if not (run_dir / "metrics.jsonl").is_file():
        run_dir = loaded.path.parents[1]  # one of the run's checkpoints was named
    logged = (run_dir / "metrics.jsonl").is_file()
    hours = training_hours(read_metrics(run_dir), loaded.samples_seen) if logged else 0
    told = f"{loaded.samples_seen:,} crops of {size}x{size} in batches of {config.train.global_batch_size}"
    told += f" at learning rate {config.optimizer.learning_rate:g}"
    return [*earlier, told + (f", {hours:.1f} hours" if hours else "") + (f" on {hardware[-1]}" if hardware else "")]


def photographs_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| noise, known | photograph of scikit-image, its middle 192x192 | noisy | denoised |",
        "|---|---|---|---|",
    ]
    cells = ("{noise} | {photograph} | {psnr_noisy_db:.2f} | {psnr_db:.2f}".format(**row) for row in rows)
    return "\n".join([*lines, *(f"| {cell} |" for cell in cells)])


def results_table(path: Path, name: str, run_dir: Path) -> str:
    """The cells of a results.json that this network computed, beside the paper's own."""
    try:
        cells = json.loads(path.read_text())["cells"]
        mine = [cell for cell in cells if cell.get("psnr_db") is not None and is_mine(cell, name, run_dir)]
        lines = ["| noise | level | benchmark | PSNR | SSIM | the paper's PSNR |", "|---|---|---|---|---|---|"]
        for cell in mine:
            found = [f"{cell[key]:.{digits}f}" if cell.get(key) is not None else ""
                     for key, digits in (("psnr_db", 2), ("ssim", 4), ("paper_db", 2))]  # fmt: skip
            lines.append("| " + " | ".join([cell["noise"], cell["level"], cell["benchmark"], *found]) + " |")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the results.json of a table ({type(error).__name__}: {error})") from None
    if not mine:
        raise UserError(f"{path} has no figures of {name} or of {run_dir}: evaluate it first")
    return "\n".join(lines)


def describe_network(loaded: checkpoint.Loaded) -> str:
    """Its name and options, as a card tells them."""
    network = loaded.config.network
    return ", ".join([network.name, *map(_option, network.options.items())])


def _option(option: tuple[str, Any]) -> str:
    """How the card tells an option of the network."""
    key, value = option[0].replace("_", " "), option[1]
    return (key if value else f"not {key}") if isinstance(value, bool) else f"{key} {value}"


def is_mine(cell: dict[str, Any], name: str, run_dir: Path) -> bool:
    where = str(cell.get("checkpoint"))
    return where == name or Path(where).absolute().is_relative_to(run_dir.absolute())


def limits(loaded: checkpoint.Loaded, harm: list[str]) -> str:
    """What the card says first: which noise, and what the network does that it must not."""
    width = loaded.model.noise.max_width
    if any(each.is_patterned for each in loaded.model.noise.patterns):
        noise = "Noise must have the stripes and the correlations of channels that it was trained on."
    elif width:
        noise = f"Noise may be correlated over neighbors, up to a width of {width:g} pixels, but not into stripes."
    else:
        noise = (
            "Noise must be independent from pixel to pixel and of these families and levels. Noise of a camera after\n"
            "  its own processing, JPEG artefacts and blur are none of these."
        )
    if not harm:
        return f"- {noise}"
    return (
        f"- {noise}\n- Told more noise than there is, it does {len(harm)} things that it must not,\n"
        f"  such as: {harm[0]}.\n"
        "  So it is only taken where it is named."
    )


def noisy_versions(loaded: checkpoint.Loaded) -> str:
    """How many noisy versions of an image training saw, in words. Runs that followed each other may have their own."""
    if loaded.config.data.resample_noise:
        return "with new noise every time"
    return "one noisy version of each" + (" in each of its runs" if loaded.config.train.start_from else "")


def ship(
    run_dir: Path,
    name: str,
    data: str,
    hardware: list[str],
    results: Path | None,
    despite_findings: bool = False,
) -> dict[str, Any]:
    """Write NAME.safetensors, NAME.json and NAME.md; returns what NAME.json holds."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"--name is {name}: write it in small letters, digits and hyphens, such as universal-color")
    if pretrained.is_shipped(run_dir):
        raise UserError(f"{run_dir} is shipped already: give the run directory it came from")
    dataset = find_dataset(data)
    table = results_table(results, name, run_dir) if results else ""
    loaded = checkpoint.load(checkpoint.locate(run_dir))
    harm = acceptance.problems(functools.partial(denoise_whole, loaded.model), loaded.channels, loaded.config.aim)
    if harm and not despite_findings:
        raise UserError(f"{run_dir} is not shipped, it would harm images ({len(harm)} findings): {harm[0]}")
    weights, storage, recorded = stored(loaded)
    content = safetensors.torch.save(weights)
    if len(content) > pretrained.MAX_BYTES:
        most = pretrained.MAX_BYTES // 1_000_000
        raise UserError(f"{loaded.path} takes {len(content) / 1e6:.1f} MB as {storage}: shipped are at most {most} MB")
    about = json.loads((loaded.path / checkpoint.ABOUT).read_text()) | {
        "config": scrubbed(loaded),
        "sha256": hashlib.sha256(content).hexdigest(),
        "storage": storage,
        "recorded": recorded,
    }
    about["budget"] = budgets(loaded, run_dir, hardware)
    if harm:
        about |= {"withdrawn": "told more noise than there is, it changes what has none", "findings": harm}
    card = CARD.format(
        name=name,
        noise=format_training_noise(loaded.config.aim).replace(",", ", "),
        coordinates=loaded.config.ardae.coordinates,
        version=noisy_versions(loaded),
        color=KINDS[loaded.channels],
        network=describe_network(loaded),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        storage=storage,
        mib=len(content) / 2**20,
        description=dataset.description,
        licence=dataset.licence,
        citation=dataset.citation,
        budget="; then ".join(about["budget"]),
        versions=", ".join(f"{package} {version}" for package, version in about["versions"].items()),
        table="\n\n".join(filter(None, [table, photographs_table(recorded)])),
        limits=limits(loaded, harm),
    )
    pretrained.FOLDER.mkdir(exist_ok=True)
    weights_file, about_file = pretrained.files(name)
    for path, written in (
        (weights_file, content),
        (about_file, (json.dumps(about, indent=1) + "\n").encode()),
        (about_file.with_suffix(".md"), card.encode()),
    ):
        with atomic_write(path) as partial:
            partial.write_bytes(written)
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=path_option, metavar="RUN_DIR", help="a run, or one of its checkpoints")
    parser.add_argument("--name", required=True, help="what it will be called, such as universal-color")
    parser.add_argument(
        "--data", default="bsd400", choices=known_names(), metavar="NAME", help="what it was trained on (%(default)s)"
    )
    parser.add_argument(
        "--hardware", action="append", default=[], metavar="TEXT", help="where it was trained, for the card; may be "
        "repeated where runs began with each other's weights, the last run's last"
    )  # fmt: skip
    parser.add_argument("--results", type=path_option, metavar="FILE", help="results.json of a table, for the card")
    parser.add_argument(
        "--despite-findings", action="store_true",
        help="ship a network that changes what has no noise: the card says so, and it is taken by name alone"
    )  # fmt: skip
    args = parser.parse_args()
    about = ship(args.run_dir, args.name, args.data, args.hardware, args.results, args.despite_findings)
    weights, _ = pretrained.files(args.name)
    print(f"wrote {weights} ({about['storage']}, {weights.stat().st_size / 1e6:.2f} MB)")
    for row in about["recorded"]:
        print("{photograph:<12}{noise:<14}{psnr_noisy_db:>8.2f}{psnr_db:>8.2f}".format(**row))
