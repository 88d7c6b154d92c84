"""Networks that come with the package: which there are and where.

    n2s_dist/weights/NAME.safetensors    the weights, float16 or float32
    n2s_dist/weights/NAME.json           what a checkpoint's model.json holds, a checksum, and recorded PSNR
    n2s_dist/weights/NAME.md             the model card

A name is taken wherever a checkpoint is. n2s ship writes these files.
"""

import json
from pathlib import Path

from n2s_dist.utils.files import sha256_file

FOLDER = Path(__file__).parents[1] / "weights"
MAX_BYTES = 10_000_000  # of one network: it comes with every installation


def names() -> list[str]:
    """Of all shipped networks, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors") if path.with_suffix(".json").is_file())


def offered() -> list[str]:
    """Of those that come first where none is named: all but the withdrawn ones, whose description says why."""
    return [name for name in names() if "withdrawn" not in json.loads(files(name)[1].read_text())]


def is_shipped(path: str | Path) -> bool:
    """Whether a user means a shipped network; a folder of that name comes first."""
    return str(path) in names() and not Path(path).exists()


def files(name: str) -> tuple[Path, Path]:
    """Where a shipped network's weights and description are."""
    return FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json"


def damage(name: str) -> str | None:
    """What is wrong with a shipped network, or None when its weights are as they were written."""
    weights, about = files(name)
    try:
        intact = json.loads(about.read_text())["sha256"] == sha256_file(weights)
    except OSError as error:
        return f"{Path(error.filename or weights).name} can't be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{about.name} is not what was written"
    return None if intact else f"{weights.name} does not match its checksum"


def known() -> str:
    """The part of an error message that lists them."""
    return f", or a shipped one: {', '.join(names())}" if names() else ""
