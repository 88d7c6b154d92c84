"""The contract of metrics: what tiles give adds up to the image's, and mistakes of a metric are named."""

import numpy as np
import pytest

from n2s_dist.evaluation.benchmarks import Benchmark, Task
from n2s_dist.evaluation.worker import image_row, measure_versions
from n2s_dist.images.eight_bit import to_uint8, write_image
from n2s_dist.inference.tiling import Box
from n2s_dist.metrics import base
from n2s_dist.metrics.metric import Metric, PixelMetric
from n2s_dist.metrics.psnr import Psnr, psnr_db
from n2s_dist.metrics.ssim import Ssim, ssim
from n2s_dist.utils.errors import UserError


@pytest.fixture
def task(tmp_path) -> Task:
    """An image of 60 x 47 pixels."""
    write_image(tmp_path / "a.png", np.zeros((60, 47, 3), np.uint8))
    (task,) = Benchmark.open("one", tmp_path, None, "float").tasks
    return task


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.random((60, 47, 3))
    return clean, (clean + rng.normal(0, 0.1, clean.shape)).clip(0, 1).astype(np.float32)


def rows(task: Task, boxes: list[Box]) -> list[dict]:
    """What the boxes of an image give, each from what it sees of it."""
    clean, estimate = pair()
    found, reach = [], base.reach()
    for box in boxes:
        wide = box.grown(reach or 0, task.size)
        seen = {"noisy": 2 * estimate, "estimate": estimate, "uint8": to_uint8(estimate) / 255.0}
        versions = {name: wide.of_array(image) for name, image in seen.items()}
        sums = measure_versions(base.metrics(), wide.of_array(clean), versions, wide, box, task)
        found.append({"box": list(box), "channels": 3, "estimated": None, "sums": sums})
    return found


def test_tiles_add_up_to_the_image(task, plug_in):
    """Of the package's metrics, of one from elsewhere and of one that looks farther than SSIM's window."""
    plug_in("mae_metric")

    @base.register
    class Far(PixelMetric):
        name, title, margin = "far", "far", 9

        def of_pixels(self, clean, estimate):
            error = np.pad((estimate - clean) ** 2, ((9, 9), (9, 9), (0, 0)))
            return error[18:, 9:-9] * error[9:-9, 18:]

    assert base.reach() == 9
    boxes = Box.of(task.size).tiles(17, 23)
    whole, tiled = image_row(task, rows(task, [Box.of(task.size)])), image_row(task, rows(task, boxes[::-1]))
    assert len(boxes) == 12 and whole.keys() == tiled.keys()
    for key in (measure.key for measure in base.measures()):
        assert tiled[key] == pytest.approx(whole[key], rel=1e-12), key
    clean, estimate = pair()
    assert whole["psnr_db"] == pytest.approx(psnr_db(clean, estimate), rel=1e-12)
    assert whole["psnr_noisy_db"] == pytest.approx(psnr_db(clean, 2 * estimate), rel=1e-12)
    assert whole["ssim"] == pytest.approx(ssim(clean, estimate), rel=1e-12)
    for metric in base.metrics():
        if metric.name != "psnr":
            assert whole[metric.name] == pytest.approx(metric.of_image(clean, estimate), rel=1e-12)


def test_what_has_no_value_is_none():
    clean = np.ones((10, 64, 3))
    assert Psnr().of_image(clean, clean) is None and Ssim().of_image(clean, clean) is None
    assert Ssim().of_image(np.ones((11, 11, 1)), np.ones((11, 11, 1))) == pytest.approx(1)


def test_what_is_not_finite_is_none_in_results(task, plug_in):
    plug_in()

    @base.register
    class Broken(Metric):
        name = title = "broken"

        def of_image(self, clean, estimate):
            return float("nan")

    assert base.reach() is None
    assert image_row(task, rows(task, [Box.of(task.size)]))["broken"] is None


@pytest.mark.parametrize(
    ("kind", "member", "value", "said"),
    [
        (PixelMetric, "of_pixels", np.zeros((3, 3)), r"shape \(3, 3\): of_pixels has to give a number for each value"),
        (Metric, "of_image", np.zeros((3, 3)), "gives a ndarray: of_image has to give a number or None"),
        (Metric, "of_image", "good", "gives a str: of_image"),
    ],
)
def test_a_metric_that_gives_something_else_is_named(task, plug_in, kind, member, value, said):
    plug_in()
    base.register(type("Odd", (kind,), {"name": "odd", "title": "odd", member: lambda self, clean, estimate: value}))
    with pytest.raises(UserError, match=f"metric odd .*{said}"):
        rows(task, [Box.of(task.size)])


def test_keys_of_results_are_taken(plug_in):
    plug_in()
    for name in ("checkpoint", "psnr_db", "name"):
        with pytest.raises(UserError, match=f"results have another '{name}'"):
            base.register(type("Mine", (Metric,), {"name": name, "title": "mine", "of_image": None}))
