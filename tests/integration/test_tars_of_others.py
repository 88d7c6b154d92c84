"""Shards and programs that others wrote: each reads what the other writes."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from wds2idx import IndexCreator

from n2s_dist.shards import verify
from n2s_dist.shards.reader import ShardSet

needs_tar = pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")


@needs_tar
def test_the_tar_program_finds_nothing_to_say(shards):
    done = subprocess.run(["tar", "tf", shards / "train-000000.tar"], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 2 * len(ShardSet(shards)) and not done.stderr


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_index_is_what_dalis_own_program_writes(shards, split, tmp_path):
    tar = shards / f"{split}-000000.tar"
    with IndexCreator(str(tar), str(tmp_path / "reference.idx"), verbose=False) as creator:
        creator.create_index()
    assert tar.with_suffix(".idx").read_bytes() == (tmp_path / "reference.idx").read_bytes()


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_shards_of_the_tar_program_can_be_read(tmp_path, form):
    rng, folder = np.random.default_rng(1), tmp_path / "files"
    images = [rng.integers(0, 256, (40 + n, 60 - n, 3), dtype=np.uint8) for n in range(5)]
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03d}{'a' * 60}.png")
        (folder / f"{number:03d}{'a' * 60}.json").write_text(
            json.dumps({"image": f"{number}.png", "row": 2, "column": 3})
        )
    (tmp_path / "shards").mkdir()
    command = ["tar", "--sort=name", f"--format={form}", "-C", tmp_path, "-cf", tmp_path / "shards/a.tar", "./files"]
    subprocess.run(command, check=True)
    verify.write_index(tmp_path / "shards")
    opened = ShardSet(tmp_path / "shards")
    for index, image in enumerate(images):
        np.testing.assert_array_equal(opened[index].tile, image)
        assert opened[index][1:] == (f"{index}.png", opened[index].image_key, 2, 3)
