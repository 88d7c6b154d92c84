"""Images: every kind of file that photographs come in, and clear refusals of the rest."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.archives import png, tarred, zipped
from support.damage import cut_in_the_middle
from support.deep_png import write_16_bit_png

from n2s_dist.images import files
from n2s_dist.images.eight_bit import image_size, read_image, to_uint8, write_image
from n2s_dist.images.files import ImageFile, list_images
from n2s_dist.utils.errors import UserError

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def color() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def smooth() -> np.ndarray:
    """A gradient, which lossy compression keeps."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([40 + 5 * y, 60 + 4 * x, 100 + 2 * y + x], axis=2).astype(np.uint8)


def the_image(folder: Path) -> ImageFile:
    (image,) = list_images(folder)
    return image


def luma(color: np.ndarray) -> np.ndarray:
    """ITU-R 601, to within the rounding of Pillow's integer arithmetic."""
    return color @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp", "A.PNG"])
def test_lossless_color(tmp_path, color, name):
    Image.fromarray(color).save(tmp_path / name)
    image = the_image(tmp_path)
    assert image_size(image) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(read_image(image), color)
    gray = read_image(image, channels=1)
    assert gray.shape == (HEIGHT, WIDTH, 1) and np.abs(gray[:, :, 0] - luma(color)).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_lossless_gray(tmp_path, color, name):
    Image.fromarray(color[:, :, 0]).save(tmp_path / name)
    image = the_image(tmp_path)
    np.testing.assert_array_equal(read_image(image), color[:, :, :1])
    np.testing.assert_array_equal(read_image(image, channels=3), color[:, :, [0, 0, 0]])


def test_palette_and_bilevel(tmp_path, color):
    palette = Image.fromarray(color).quantize(16)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(color[:, :, 0] > 127).save(tmp_path / "two-levels.png")
    from_palette, two_levels = (read_image(image) for image in list_images(tmp_path))
    np.testing.assert_array_equal(two_levels, np.where(color[:, :, :1] > 127, 255, 0))
    np.testing.assert_array_equal(from_palette, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp"])
def test_lossy_color(tmp_path, smooth, name):
    Image.fromarray(smooth).save(tmp_path / name, quality=95)
    pixels = read_image(the_image(tmp_path))
    assert pixels.shape == smooth.shape and np.abs(pixels.astype(int) - smooth).mean() < 3


def test_cmyk_jpeg_is_read_as_color(tmp_path, smooth):
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    pixels = read_image(the_image(tmp_path))
    assert pixels.shape == smooth.shape and np.abs(pixels.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("kind", ["png", "little-endian tif", "big-endian tif"])
def test_16_bit_gray_is_scaled_and_rounded(tmp_path, kind):
    wide = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    wide[0, :4] = 0, 65535, 128, 129  # 128 / 257 rounds down, 129 / 257 up
    if kind == "png":
        write_16_bit_png(tmp_path / "a.png", wide[:, :, None])
    else:
        tifffile.imwrite(tmp_path / "a.tif", wide, byteorder="<" if kind.startswith("little") else ">")
    pixels = read_image(the_image(tmp_path))
    np.testing.assert_array_equal(pixels[:, :, 0], np.round(wide / 257))
    assert pixels[0, :4, 0].tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize("kind", ["color png", "color and alpha png", "gray and alpha png", "color tif"])
def test_more_than_8_bits_a_channel_are_refused_by_name(tmp_path, kind):
    """Pillow would drop the low bits without a word."""
    channels = {"color": 3, "color and alpha": 4, "gray and alpha": 2}[kind.rpartition(" ")[0]]
    wide = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(np.uint16)
    wide[:, :, 1::2] = 65535  # opaque, where there is an alpha channel
    if kind.endswith("png"):
        write_16_bit_png(tmp_path / "deep.png", wide)
    else:
        tifffile.imwrite(tmp_path / "deep.tif", wide, photometric="rgb")
    with pytest.raises(UserError, match=r"deep\.(png|tif).*16 bits"):
        read_image(the_image(tmp_path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32, np.int16])
def test_other_pixel_types_are_refused_by_name(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "strange.tif", np.ones((HEIGHT, WIDTH), dtype))
    with pytest.raises(UserError, match=r"strange\.tif"):
        read_image(the_image(tmp_path))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_refused_unless_opaque(tmp_path, color, mode):
    image = Image.fromarray(color).quantize(16) if mode == "P" else Image.fromarray(color).convert(mode)
    opaque = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "a.png")
    pixels = read_image(the_image(tmp_path))
    assert pixels.shape == (HEIGHT, WIDTH, 1 if mode == "LA" else 3)  # an opaque alpha channel changes nothing
    np.testing.assert_array_equal(np.broadcast_to(pixels, opaque.shape), opaque)

    if mode == "P":
        image.save(tmp_path / "a.png", transparency=int(np.asarray(image)[0, 0]))
    else:
        alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
        alpha[7, 3] = 254
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is transparent"):
        read_image(the_image(tmp_path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied(tmp_path, smooth, orientation, suffix):
    stored = Image.fromarray(smooth)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    # What the first stored row and column are in the upright image (TIFF 6.0, tag 274).
    upright = {
        1: smooth,
        2: smooth[:, ::-1],
        3: smooth[::-1, ::-1],
        4: smooth[::-1],
        5: smooth.transpose(1, 0, 2),
        6: smooth.transpose(1, 0, 2)[:, ::-1],
        7: smooth.transpose(1, 0, 2)[::-1, ::-1],
        8: smooth.transpose(1, 0, 2)[::-1],
    }[orientation]
    image = the_image(tmp_path)
    pixels = read_image(image)
    assert image_size(image) == pixels.shape[:2] == upright.shape[:2]
    assert np.abs(pixels.astype(int) - upright).mean() < (3 if suffix == "jpg" else 1e-9)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path, color, name, share):
    Image.fromarray(color).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=name):
        read_image(the_image(tmp_path))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_size_needs_the_header_alone(tmp_path, name):
    """Reading sizes decodes nothing: it is done for every image before the first shard is written."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    cut_in_the_middle(tmp_path / name)
    assert image_size(the_image(tmp_path)) == (200, 300)


def test_text_under_an_image_name_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("not an image\n" * 100)
    for function in (image_size, read_image):
        with pytest.raises(UserError, match=r"notes\.png is not a readable image"):
            function(the_image(tmp_path))


def test_missing_and_empty_sources(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words/readme.txt").write_text("no image")
    (tmp_path / "not.zip").write_text("no archive")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    for name, message in {
        "nowhere": "does not exist",
        "empty": "holds no images",
        "words": "holds no images",
        "not.zip": "neither a folder, a readable zip or tar archive",
        "empty.zip": "holds no images",
    }.items():
        with pytest.raises(UserError, match=f"{name} .*{message}|{name} {message}"):
            list_images(tmp_path / name)


def test_images_are_listed_by_name_without_hidden_files(tmp_path, color):
    for name in ("b.png", "sub/c.JPG", "a.png", ".hidden.png", ".cache/d.png", "__MACOSX/e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(color).save(tmp_path / name, format="PNG")
    assert [image.name for image in list_images(tmp_path)] == ["a.png", "b.png", "sub/c.JPG"]
    assert [image.name for image in list_images(tmp_path)] == ["a.png", "b.png", "sub/c.JPG"]


def test_zip_archives_read_like_folders(tmp_path, color):
    folder, archive = tmp_path / "folder", tmp_path / "images.zip"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.tif", ".hidden.png")):
        Image.fromarray(color ^ np.uint8(number)).save(folder / name)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for path in sorted(folder.rglob("*")):
            stream.write(path, path.relative_to(folder))
    from_folder, from_zip = list_images(folder), list_images(archive)
    assert [image.name for image in from_zip] == [image.name for image in from_folder] == ["a.png", "sub/b.tif"]
    for one, other in zip(from_folder, from_zip, strict=True):
        assert image_size(one) == image_size(other) and one.num_bytes == other.num_bytes
        np.testing.assert_array_equal(read_image(one), read_image(other))


def test_a_zip_that_was_replaced_is_read_anew(tmp_path, color):
    archive, images = tmp_path / "images.zip", (color, color ^ np.uint8(1))
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "a.bmp")  # of the same size, whatever it shows
        with zipfile.ZipFile(tmp_path / "new.zip", "w", zipfile.ZIP_STORED) as stream:
            stream.write(tmp_path / "a.bmp", "a.bmp")
        (tmp_path / "new.zip").replace(archive)
        (image,) = list_images(archive)
        np.testing.assert_array_equal(read_image(image), images[number])


def test_a_damaged_member_of_a_zip_is_refused_by_name(tmp_path, color):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:
        Image.fromarray(color).save(tmp_path / "a.png")
        stream.write(tmp_path / "a.png", "a.png")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"images\.zip/a\.png"):
        read_image(the_image(archive))


@pytest.mark.parametrize("channels", [1, 3])
def test_write_image_is_lossless(tmp_path, color, channels):
    write_image(tmp_path / "new/a.png", color[:, :, :channels])
    np.testing.assert_array_equal(read_image(the_image(tmp_path / "new")), color[:, :, :channels])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_write_image_leaves_nothing_behind_when_it_fails(tmp_path, color, monkeypatch):
    write_image(tmp_path / "a.png", color)

    def full_disk(self, path, *args, **kwargs):
        Path(path).write_bytes(b"half an image")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="No space"):
            write_image(tmp_path / name, color)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_image(the_image(tmp_path)), color)  # the old one, whole


def test_to_uint8_clamps_and_rounds():
    floats = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1, 2])
    assert to_uint8(floats).tolist() == [0, 0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_with_an_absolute_name_is_refused(tmp_path, kind):
    """Programs write to OUT / NAME, which for an absolute name is the name."""
    path = tmp_path / f"images.{kind}"
    path.write_bytes((zipped if kind == "zip" else tarred)({"a.png": png(0), "/etc/b.png": png(1)}))
    with pytest.raises(UserError, match=r"images\.(zip|tar) holds /etc/b\.png, which lies outside"):
        list_images(path)


@pytest.mark.parametrize("where", ["encrypted", "rare", "header"])
def test_a_member_that_zipfile_does_not_give_is_refused_by_name(tmp_path, where):
    path, content = tmp_path / "images.zip", bytearray(zipped({"a.png": png(0)}, zipfile.ZIP_STORED))
    central = content.find(b"PK\x01\x02")
    if where == "header":
        content[3] ^= 1
    else:  # a bit or a number in both headers
        at, value = (6, 1) if where == "encrypted" else (8, 9)
        content[at], content[central + at + 2] = value, value
    path.write_bytes(content)
    (image,) = list_images(path)
    for function in (image_size, read_image):
        with pytest.raises(UserError, match=r"a\.png can't be read from its archive"):
            function(image)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damage that it bears
def test_a_broken_orientation_is_refused_by_name(tmp_path, smooth):
    """Pillow raises struct.error where a turned JPEG's other EXIF values make no sense."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, exif=exif)
    content, refused, rng = path.read_bytes(), 0, np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(20, 110)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(ImageFile(tmp_path, "a.jpg", len(damaged)))
        except UserError as error:
            refused += 1
            assert "a.jpg" in str(error)
    assert refused


# --- links and folders that can't be read -----------------------------------------------------------------


def test_folders_behind_links_are_listed_and_loops_end(tmp_path, color):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "in/sub").mkdir(parents=True)
    for path in ("elsewhere/a.png", "elsewhere/deep/b.png", "in/c.png"):
        Image.fromarray(color).save(tmp_path / path)
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/sub/up").symlink_to(tmp_path / "in")  # a loop
    (tmp_path / "elsewhere/deep/round").symlink_to(tmp_path / "elsewhere")  # another, entered by a link
    (tmp_path / "in/d.png").symlink_to(tmp_path / "in/c.png")
    found = list_images(tmp_path / "in")
    assert [image.name for image in found] == ["c.png", "d.png", "linked/a.png", "linked/deep/b.png"]
    for image in found:
        np.testing.assert_array_equal(read_image(image), color)
    (tmp_path / "to-in").symlink_to(tmp_path / "in")
    assert [image.name for image in list_images(tmp_path / "to-in")] == [image.name for image in found]


def test_links_to_nothing_are_named(tmp_path, color):
    """An image by what opens it, so that programs can go on past it; what may be a folder at once."""
    Image.fromarray(color).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone.txt")  # no image, so nobody's loss
    found = list_images(tmp_path)
    assert [image.name for image in found] == ["a.png", "b.png"]
    for function in (image_size, read_image):
        with pytest.raises(UserError, match=r"b\.png is a link to .*gone\.png, which is not there"):
            function(found[1])
    (tmp_path / "more").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match=r"more is a link to .*unmounted, which is not there"):
        list_images(tmp_path)
    with pytest.raises(UserError, match=r"more is a link to .*unmounted, which is not there"):
        list_images(tmp_path / "more")


def test_folders_and_files_that_can_not_be_read_are_named(tmp_path, color, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / ".hidden").mkdir()
    Image.fromarray(color).save(tmp_path / "a.png")
    scan = files.os.scandir

    def refuse(path):
        if Path(path).name in ("closed", ".hidden"):  # permissions mean nothing to root, whom tests may run as
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed can't be read \(Permission denied\)"):
        list_images(tmp_path)
    (tmp_path / "closed").rmdir()
    image = the_image(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png can't be read \(No such file or directory\)"):
        read_image(image)
