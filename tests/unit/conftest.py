"""Unit tests start no program and run no training: where they need a trained network, a stored one will do."""

import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from support.evaluated_run import evaluate_run
from support.no_programs import nothing_is_started
from support.paths import ROOT

from n2s_dist.inference.network_choice import ShippedDenoiser


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The run directory of a tiny run on Gaussian noise of sigma 25, color, written before."""
    run_dir = tmp_path_factory.mktemp("runs") / "trained"
    return Path(shutil.copytree(ROOT / "tests/data/written_before/runs/gaussian25", run_dir))


@pytest.fixture(scope="session")
def evaluated(trained, photographs, once) -> Path:
    """evaluate_run of this run, not of the one that other tests train, on two photographs."""

    def evaluate(folder: Path) -> None:
        (folder / "photographs").mkdir()
        for name in ("coffee.png", "rocket.png"):
            shutil.copy(photographs / name, folder / "photographs")
        evaluate_run(trained, folder / "photographs", folder)

    return once("evaluated-unit", evaluate) / "evaluation"


@pytest.fixture(scope="session")
def shipped() -> ShippedDenoiser:
    """All shipped networks on the CPU: to load them takes a third of a second."""
    return ShippedDenoiser("cpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around each unit test with all of its fixtures. pytest asks about the tests of all folders."""
    if Path(__file__).parent not in item.path.parents:
        return (yield)
    with nothing_is_started():
        return (yield)
