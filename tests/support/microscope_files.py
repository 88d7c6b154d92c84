"""Microscopes' files, the smallest that hold a stack: CZI by Zeiss's own writer; LIF and ND2 byte by byte.

Arrays are [..., H, W], or [..., H, W, 3] with `color`; each has a letter, slowest first, in `axes`.
"""

import re
import struct
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np


def write_czi(path: Path, array: np.ndarray, axes: str, color: bool = False, **options: Any) -> Path:
    """Of the letters T, C and Z, and S for scenes, which lie behind each other.

    options: bits of a value that count, pixel_um, tile (side of the tiles), compression, first (T of the first frame).
    """
    import pylibCZIrw.czi as pylib

    compression, side = options.get("compression", "uncompressed:"), options.get("tile", 10**6)
    height, width = array.shape[-3:-1] if color else array.shape[-2:]
    with pylib.create_czi(str(path), exist_ok=True, compression_options=compression) as file:
        for place in product(*map(range, array.shape[: len(axes)])):
            at = dict(zip(axes, place, strict=True))
            scene = at.pop("S", 0)
            at["T"] = at.get("T", 0) + options.get("first", 0)
            plane = array[place][..., ::-1] if color else array[place]  # blue comes first
            for top, left in product(range(0, height, side), range(0, width, side)):
                tile = np.ascontiguousarray(plane[top : top + side, left : left + side])
                where = (left + scene * 2 * width, top)
                file.write(tile, location=where, plane=at, scene=scene)
        meters = {f"scale_{letter.lower()}": um * 1e-6 for letter, um in options.get("pixel_um", {}).items()}
        file.write_metadata("a stack", channel_names={0: "DAPI", 1: "GFP"}, **meters)
    if bits := options.get("bits"):
        _say_bits(path, bits)
    return path


def _say_bits(path: Path, bits: int) -> None:
    """In the place of words that nobody needs, so that all stays where it is."""
    data, said = path.read_bytes(), f"<ComponentBitCount>{bits}</ComponentBitCount>".encode()
    (size,) = re.findall(rb"<SizeM>.*?</SizeM>", data)
    words = b"<Comment>pylibCZIrw generated</Comment>"
    assert data.count(words) == 1
    path.write_bytes(data.replace(size, said).replace(words, b" " * (len(size) + len(words) - len(said))))


# --- LIF ----------------------------------------------------------------------------------------------------


def write_lif(path: Path, images: dict[str, tuple[np.ndarray, str]], bits: int, pixel_um: float = 0.5) -> Path:
    """Each image by its name, with its letters of T, C, Z, M, Y, X and S, the last of a color's values.

    bits: of a value that count, or all where it has fewer.
    """
    blocks = [(f"MemBlock_{number}", array) for number, (array, _) in enumerate(images.values())]
    elements = "".join(
        _lif_image(name, array, letters, min(bits, 8 * array.itemsize), pixel_um, block)
        for (name, (array, letters)), (block, _) in zip(images.items(), blocks, strict=True)
    )
    header = (
        '<LMSDataContainerHeader Version="2"><Element Name="a" UniqueID="1"><Data><Experiment/></Data>'
        f"<Children>{elements}</Children></Element></LMSDataContainerHeader>"
    )
    text = header.encode("utf-16-le")
    with path.open("wb") as file:
        file.write(struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(text) // 2) + text)
        for block, array in blocks:
            name = block.encode("utf-16-le")
            file.write(struct.pack("<IIBQBI", 0x70, len(name) + 14, 0x2A, array.nbytes, 0x2A, len(block)) + name)
            file.write(np.ascontiguousarray(array).tobytes())
    return path


def _lif_image(name: str, array: np.ndarray, letters: str, bits: int, pixel_um: float, block: str) -> str:
    steps = dict(zip(letters, array.strides, strict=True))
    lengths = dict(zip(letters, array.shape, strict=True))
    channel = next((letter for letter in "CS" if letter in letters), None)
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="{number + 1 if channel == "S" else 0}" Resolution="{bits}" '
        f'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName="{("Green", "Magenta", "Blue")[number]}" '
        f'IsLUTInverted="0" BytesInc="{number * (steps[channel] if channel else 0)}" BitInc="0"/>'
        for number in range(lengths[channel] if channel else 1)
    )
    dimensions = "".join(
        f'<DimensionDescription DimID="{number}" NumberOfElements="{lengths[letter]}" Origin="0" '
        f'Length="{pixel_um * 1e-6 * (lengths[letter] - 1):.12g}" Unit="m" BytesInc="{steps[letter]}" BitInc="0"/>'
        for letter, number in {"X": 1, "Y": 2, "Z": 3, "T": 4, "M": 10}.items()
        if letter in lengths
    )
    return (
        f'<Element Name="{name}" UniqueID="{block}"><Data><Image><ImageDescription><Channels>{channels}</Channels>'
        f"<Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{array.nbytes}" MemoryBlockID="{block}"/></Element>'
    )


# --- ND2 ----------------------------------------------------------------------------------------------------

_CHUNK_MAGIC, _ALIGNED = 0x0ABECEDA, 4096
_MAP_NAME, _MAP_END = b"ND2 FILEMAP SIGNATURE NAME 0001!", b"ND2 CHUNK MAP SIGNATURE 0000001!"
_LOOPS = {"T": 1, "P": 2, "Z": 4}  # kinds of loops


def write_nd2(
    path: Path, array: np.ndarray, axes: str, bits: int, color: bool = False, recorded: int | None = None
) -> Path:
    """Of version 3. axes: of T, P and Z, then C where there are channels. recorded: how many frames there are of it."""
    loops = [(letter, length) for letter, length in zip(axes, array.shape, strict=False) if letter != "C"]
    channels = array.shape[axes.index("C")] if "C" in axes else 1
    whole = array if color else array[..., None]
    height, width, samples = whole.shape[-3:]
    frames = whole.reshape(-1, channels, height, width, samples).transpose(0, 2, 3, 1, 4)[:recorded]
    attributes = {
        "uiWidth": width, "uiWidthBytes": width * channels * samples * array.itemsize, "uiHeight": height,
        "uiComp": channels * samples, "uiBpcInMemory": 8 * array.itemsize, "uiBpcSignificant": bits,
        "uiSequenceCount": len(frames), "eCompression": 2,
    }  # fmt: skip
    probe = {"pFluorescentProbe": {"m_ExcitationSpectrum": {"uiCount": 0}}}
    planes = {
        f"a{i}": {"uiCompCount": samples, "uiSampleIndex": i, "sDescription": ("DAPI", "GFP", "Cy5")[i], **probe}
        for i in range(channels)
    }
    picture = {
        "bCalibrated": True, "dCalibration": 0.25, "sPicturePlanes": {"uiCount": channels, "sPlaneNew": planes}
    }  # fmt: skip
    chunks = [
        (b"ImageAttributesLV!", _lite({"SLxImageAttributes": attributes})),
        (b"ImageMetadataSeqLV|0!", _lite({"SLxPictureMetadata": picture})),
    ]
    if loops:
        chunks.append((b"ImageMetadataLV!", _lite({"SLxExperiment": _loop(loops)})))
    chunks += [(f"ImageDataSeq|{i}!".encode(), bytes(8) + frame.tobytes()) for i, frame in enumerate(frames)]
    with path.open("wb") as file:
        file.write(struct.pack("<IIQ", _CHUNK_MAGIC, 32, 64) + b"ND2 FILE SIGNATURE CHUNK NAME01!")
        file.write(b"Ver3.0".ljust(64, b"\0"))
        places = b""
        for name, data in chunks:
            file.write(bytes(-file.tell() % _ALIGNED))
            places += name + struct.pack("<QQ", file.tell(), len(data))
            file.write(_chunk(name, data))
        file.write(bytes(-file.tell() % _ALIGNED))
        begin = file.tell()
        file.write(_chunk(_MAP_NAME, places + _MAP_END + struct.pack("<Q", begin), room=32))
    return path


def _chunk(name: bytes, data: bytes, room: int = _ALIGNED - 24) -> bytes:
    return struct.pack("<IIQ", _CHUNK_MAGIC, room, len(data)) + name.ljust(room, b"\0") + data


def _loop(loops: list[tuple[str, int]]) -> dict[str, Any]:
    (letter, count), *below = loops
    points = {f"i{i:010}": {"dPosX": float(i), "dPosY": 0.0, "dPosZ": 0.0} for i in range(count)}
    settings: dict[str, Any] = {"uiCount": count}
    settings |= {"dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0} if letter == "T" else {}
    settings |= {"dZStep": 0.5, "dZLow": 0.0, "dZHigh": 0.5 * (count - 1)} if letter == "Z" else {}
    settings |= {"Points": points} if letter == "P" else {}
    more = {"ppNextLevelEx": {"i0000000000": _loop(below)}} if below else {}
    return {"eType": _LOOPS[letter], "uLoopPars": settings, **more}


def _lite(said: dict[str, Any]) -> bytes:
    """Words as ND2 packs them: of each its type, its name, its value."""
    packed = b""
    for name, value in said.items():
        head = bytes([len(name) + 1]) + (name + "\0").encode("utf-16-le")
        if isinstance(value, dict):
            inner = _lite(value)
            length = 1 + len(head) + 12 + len(inner)
            packed += b"\x0b" + head + struct.pack("<IQ", len(value), length) + inner + bytes(8 * len(value))
        elif isinstance(value, bool):
            packed += b"\x01" + head + bytes([value])
        elif isinstance(value, int):
            packed += b"\x03" + head + struct.pack("<I", value)
        elif isinstance(value, float):
            packed += b"\x06" + head + struct.pack("<d", value)
        else:
            packed += b"\x08" + head + (value + "\0").encode("utf-16-le")
    return packed
