"""A platform without what Linux alone has, and without DALI: shards and weights are the same, to the last bit."""

from pathlib import Path

from support.paths import ROOT


def test_linux_is_gone_elsewhere(elsewhere, tmp_path):
    """Else the tests below would prove nothing."""
    (tmp_path / "look.py").write_text("""
import importlib, os, signal
from n2s_dist.utils import cores, memory, stopwatch
for name in ("fcntl", "resource", "torch.nothing", "accelerate"):
    try:
        importlib.import_module(name)
    except ImportError:
        print(name)
print(hasattr(os, "sched_getaffinity"), hasattr(signal, "SIGUSR1"), memory.available_bytes())
""")
    said = elsewhere(["accelerate"], tmp_path / "look.py")
    assert said.splitlines() == ["fcntl", "resource", "torch.nothing", "accelerate", "False False None"]


def test_training_without_dali_gives_the_same_weights(elsewhere, photographs, shards, tiny, trained, tmp_path):
    """From images to a network, by NumPy's crops."""
    built = tmp_path / "shards"
    words = [photographs, "--out", built, "--tile-size", 64, "--validation-fraction", 0.2, "--workers", 1]
    elsewhere(["nvidia"], ROOT / "tools/build_shards.py", *words)
    for path in shards.glob("*.tar"):
        assert (built / path.name).read_bytes() == path.read_bytes()
    said = elsewhere(["nvidia"], "n2s_dist.train", *tiny, "--run_dir", tmp_path / "run", f"--data.shards={built}")
    assert said.count("NVIDIA DALI is not installed") == 1
    weights = Path("checkpoints/samples-000000160/model.safetensors")
    assert (tmp_path / "run" / weights).read_bytes() == (trained / weights).read_bytes()
