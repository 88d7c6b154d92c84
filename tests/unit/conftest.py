"""Unit tests start no program and train nothing: where they need a trained network, a stored one will do."""

import shutil
from pathlib import Path

import pytest
from support.evaluated_run import evaluate_run
from support.paths import ROOT

_FOR_OTHERS = {"undisturbed", "fleet", "run_module", "run_training"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The run directory of a tiny run on Gaussian noise of sigma 25, color, written before."""
    run_dir = tmp_path_factory.mktemp("runs") / "trained"
    return Path(shutil.copytree(ROOT / "tests/data/written_before/runs/gaussian25", run_dir))


@pytest.fixture(scope="session")
def evaluated(trained, photographs, tmp_path_factory) -> Path:
    """evaluate_run of this run, not of the one that other tests train."""
    return evaluate_run(trained, photographs, tmp_path_factory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts ranks or programs of the training stack belongs elsewhere."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    found = [item.nodeid for item in here if _FOR_OTHERS & set(getattr(item, "fixturenames", ()))]
    if found:
        raise pytest.UsageError(f"no unit tests, so move them to tests/integration: {', '.join(found)}")
