"""Speed switches: the same training to rounding, the same names in checkpoints, and runs that go on across them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from n2s_dist import train as training
from n2s_dist.distributed.precision import choose_precision
from n2s_dist.models import checkpoint
from n2s_dist.training import compilation
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.training.setup import check_compile, start
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

SWITCHED = ["--train.compile=default", "--train.channels_last=true"]
HALF, WHOLE = "samples-000000080", "samples-000000160"


def raw(path: Path) -> dict[str, Tensor]:
    return checkpoint.load_training_state(path)["weights"]


def averaged(path: Path) -> dict[str, Tensor]:
    return checkpoint.load(path).model.state_dict()


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


@pytest.fixture(scope="module")
def plain(trained) -> Path:
    """The folder of checkpoints of a run without any switch, after half and after all of its steps."""
    return trained / "checkpoints"


@pytest.fixture(scope="module", autouse=True)
def traced() -> Iterator[None]:
    """Capture and differentiate as torch.compile does, and run the graphs as they are: C++ takes half a minute."""
    compile_function = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch, "compile", lambda call, mode, dynamic: compile_function(call, backend="aot_eager"))
        yield


@pytest.fixture(scope="module")
def switched(tiny, tmp_path_factory) -> Path:
    """The same of a run that was compiled and kept channels last."""
    run_dir = tmp_path_factory.mktemp("switched") / "run"
    graphs = counters["stats"]["unique_graphs"]
    last = train(read_config([*tiny, "--run_dir", str(run_dir), *SWITCHED]))
    assert counters["stats"]["unique_graphs"] == graphs + 1  # one whole graph, compiled once
    return last.parent


@pytest.fixture(scope="module")
def bf16(tiny, run_training, tmp_path_factory) -> Path:
    """The same of a run in bf16, in a process of its own: a process keeps its precision."""
    run_dir = tmp_path_factory.mktemp("bf16") / "run"
    done = run_training(*tiny, "--run_dir", run_dir, "--train.mixed_precision=bf16")
    assert done.code == 0, done.err
    return run_dir / "checkpoints"


@pytest.fixture
def distance(tiny, plain, tmp_path):
    """How far a checkpoint's weights are from the plain run's, over how far those moved in all."""
    begin = flat(start(read_config([*tiny, "--run_dir", str(tmp_path / "begin")])).model.state_dict())
    end = flat(raw(plain / WHOLE))
    return lambda path: float((flat(raw(path)) - end).norm() / (end - begin).norm())


@pytest.mark.parametrize("name", ["switched", "bf16"])
def test_checkpoints_hold_the_same_names_and_shapes_as_a_plain_runs(name, plain, request):
    for read in (raw, averaged):
        mine, its = read(request.getfixturevalue(name) / WHOLE), read(plain / WHOLE)
        assert {name: (w.shape, w.dtype) for name, w in mine.items()} == {n: (w.shape, w.dtype) for n, w in its.items()}


def test_switches_change_rounding_alone(switched, bf16, distance):
    """bf16 keeps three digits of what is convolved; the others round in another order."""
    assert 0 < distance(switched / WHOLE) < 1e-3
    assert 1e-3 < distance(bf16 / WHOLE) < 0.2


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        ("switched", [], 1e-3),
        ("plain", ["--train.channels_last=true"], 1e-3),
        ("plain", SWITCHED, 1e-3),
        ("bf16", [], 0.2),
    ],
    ids=["off", "channels_last on", "all on", "float32 again"],
)
def test_a_run_goes_on_across_a_switch(before, after, most, tiny, distance, request, tmp_path):
    """Were moments taken for other weights', or weights not found, it would end elsewhere."""
    run_dir = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(before) / HALF, run_dir / "checkpoints" / HALF)
    last = train(read_config([*tiny, "--run_dir", str(run_dir), *after]))
    assert last.name == WHOLE and distance(last) < most


def test_moments_take_the_layout_of_their_weights():
    model = torch.nn.Conv2d(8, 6, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.randn(2, 8, 9, 9)).square().mean().backward()
    optimizer.step()
    moments = optimizer.state[model.weight]
    expected = moments["exp_avg"].clone()
    moments["exp_avg"] = moments["exp_avg"].contiguous()
    assert moments["exp_avg"].stride() != model.weight.stride()
    compilation.match_layout(optimizer)
    assert moments["exp_avg"].stride() == model.weight.stride() and torch.equal(moments["exp_avg"], expected)
    assert moments["step"].shape == ()


def test_compiling_without_a_compiler_is_refused_in_one_line(tiny, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    line = cli(training.main, *tiny, f"--run_dir={tmp_path / 'run'}", "--train.compile=default").error(2)
    assert "train.compile is default" in line and "g++" in line


def test_an_unknown_way_to_compile_lists_the_known_ones(cli):
    line = cli(training.main, "--train.compile=fast").error(2)
    assert "train.compile" in line and "reduce-overhead" in line


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_are_refused_where_gradients_would_be_wrong(tiny, cli, tmp_path, mode):
    given = [*tiny, f"--run_dir={tmp_path / 'run'}", f"--train.compile={mode}"]
    line = cli(training.main, *given, "--train.device_batch_size=4").error(2)
    assert f"train.compile {mode}" in line and "train.device_batch_size 8" in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=f"train.compile {mode} .*max-autotune-no-cudagraphs"):
        check_compile(read_config(given), 2)


@pytest.mark.parametrize(("mode", "ranks", "portion"), [("default", 2, 2), ("max-autotune-no-cudagraphs", 2, 2),
                                                        ("reduce-overhead", 1, 8)])  # fmt: skip
def test_ways_to_compile_that_are_right(tiny, mode, ranks, portion):
    check_compile(read_config([*tiny, f"--train.compile={mode}", f"--train.device_batch_size={portion}"]), ranks)


@pytest.mark.parametrize(("bf16", "amx"), [(False, False), (True, False), (False, True)])
def test_auto_is_bf16_where_the_processor_calculates_in_it(bf16, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", False) == ("bf16" if bf16 or amx else "no")
    assert (choose_precision("bf16", False), choose_precision("no", False)) == ("bf16", "no")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        choose_precision("fp16", False)
