"""Put a network into a repository of a model hub, from where others load it by its address.

n2s push runs/mine hf://OWNER/REPO
n2s push universal-gray hf://OWNER/REPO --private

It takes the extra hub, and a token of yours that may write there: HF_TOKEN, or what hf auth login has kept. Weights, a
description and a model card are sent. The card is made from what the run says of itself; --card takes your own. Then

n2s denoise --checkpoint hf://OWNER/REPO noisy.png denoised.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

from n2s_dist.commands.ship import budgets, describe_network, limits, scrubbed
from n2s_dist.images.files import KINDS
from n2s_dist.models import checkpoint, hub, pretrained
from n2s_dist.noise.specification import format_training_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option, path_text

FRONT = """\
---
library_name: n2s_dist
pipeline_tag: image-to-image
tags:
- image-denoising
- noise2score
---

"""
CARD = """\
# {name}

Removes {noise} noise from {color} images
(sigma in 8-bit levels, zeta the intensity of a photon, k the shape). Trained by n2s_dist, method {method}.

- Network: {network}, {parameters:,} parameters.
- Training: {budget}.
- Versions: {versions}.

## Limits

{limits}
- Check it against data whose truth is known, above all on images unlike those that it was trained on.
- A denoised image is a posterior mean: where the noise hides texture, it is smoother than the truth.
"""
USE = """
## Use

    pip install n2s_dist[hub]
    n2s denoise --checkpoint {address} noisy.png denoised.png
"""


def made_card(loaded: checkpoint.Loaded, run_dir: Path, name: str) -> str:
    """What a run says of itself, for people."""
    about = json.loads((loaded.path / checkpoint.ABOUT).read_text())
    return CARD.format(
        name=name,
        noise=format_training_noise(loaded.config.aim).replace(",", ", "),
        color=KINDS[loaded.channels],
        method=loaded.config.method,
        network=describe_network(loaded),
        parameters=sum(tensor.numel() for tensor in loaded.model.state_dict().values()),
        budget="; then ".join(budgets(loaded, run_dir, [])),
        versions=", ".join(f"{package} {version}" for package, version in about["versions"].items()),
        limits=limits(loaded, []),
    )


def contents(loaded: checkpoint.Loaded, network: Path, name: str) -> tuple[bytes, dict[str, Any], str]:
    """Weights, description and card of a network; name: what the card calls it."""
    if pretrained.is_shipped(loaded.path):
        weights, about = pretrained.files(loaded.path.name)
        return weights.read_bytes(), json.loads(about.read_text()), about.with_suffix(".md").read_text()
    about = json.loads((loaded.path / checkpoint.ABOUT).read_text()) | {"config": scrubbed(loaded)}
    return (loaded.path / checkpoint.WEIGHTS).read_bytes(), about, made_card(loaded, network, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("network", type=path_text, metavar="RUN", help="a run directory, one of its checkpoints, or a shipped network")
    add("address", metavar="hf://OWNER/REPO", help="where it goes; a repository that is not there is made")
    add("--private", action="store_true", help="make a repository that only you see (default: all see it)")
    add("--card", type=path_option, metavar="FILE", help="the model card, Markdown (default: made from the run)")
    args = parser.parse_args()
    address = hub.parse(args.address)
    if address.revision:
        raise UserError(f"{address} names a revision: leave @{address.revision} out, each push is one of its own")
    if hub.is_address(args.network):
        raise UserError(f"{args.network} is on a hub already: give a run directory, or the name of a shipped network")
    own_card = _read_card(args.card) if args.card else ""
    hub.check_token(address)
    loaded = checkpoint.load(checkpoint.locate(args.network))
    name = address.repository.partition("/")[2]
    weights, about, card = contents(loaded, Path(args.network), name)
    card = own_card or FRONT + card + USE.format(address=address)
    done = hub.push(address, weights, about, card, args.private, f"n2s push: {Path(args.network).name}")
    print(f"pushed {args.network} to {done} ({len(weights) / 1e6:.2f} MB)")


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--card {path} can't be read ({type(error).__name__}): give a text file") from None
