"""Published PSNR to compare with: Table 2 of Kim & Ye (NeurIPS 2021) and what stands around it, from paper.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

from n2s_dist.utils.strict_yaml import read_yaml

PAPERS_OWN = "n2s"  # the key of the paper's own method, Noise2Score


@cache
def read_paper() -> dict[str, Any]:
    """All of paper.yaml: sources, methods, and which cells are unusable or doubtful and why."""
    return read_yaml(Path(__file__).parent / "paper.yaml")


def paper_db(noise: str, level: str, benchmark: str, method: str = PAPERS_OWN) -> float | None:
    """A method's published PSNR in dB over a whole benchmark; None where none is published, or none usable.

    noise: as noise.format_noise writes it, "gaussian:25". level: "known" or "unknown", whether the method was told the
    noise's parameter. method: a key of paper.yaml's methods, of which PAPERS_OWN is the paper's own.
    """
    return read_paper()["methods"].get(method, {}).get(level, {}).get(noise, {}).get(benchmark)


def remark(noise: str, benchmark: str) -> str | None:
    """Why the paper's figures of a cell can't be used, or are doubtful; None where there is nothing to say."""
    paper = read_paper()
    found = [paper[kind].get(noise, {}).get(benchmark) for kind in ("unusable", "doubtful")]
    return next(filter(None, found), None)


def method_name(method: str) -> str:
    """How a method of paper.yaml is called in tables; any other keeps its key."""
    return read_paper()["methods"].get(method, {}).get("name", method)
