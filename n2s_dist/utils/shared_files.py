"""Files that come with the package but are no code: configurations, data sets' descriptions, launch files."""

import sysconfig
from pathlib import Path


def shared_folder(name: str) -> Path:
    """The folder `configs`, `shards` or `launch`: that of the checkout, or the one that a wheel installed."""
    checkout = Path(__file__).parents[2]
    if (checkout / "setup.cfg").is_file():
        return checkout / name
    return Path(sysconfig.get_path("data")) / "share" / "n2s_dist" / name
