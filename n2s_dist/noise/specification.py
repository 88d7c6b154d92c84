"""The text that names noise: a family and its parameters, or several families with ranges of them.

    "gaussian:25", "poisson-gaussian:0.01:5", "gaussian:25+blur:0.7"                    a noise model
    "gaussian:5-55,poisson:0.005-0.1", "poisson-gaussian:0.002-0.05:1-20+blur:0-1.2"    what a network trains on
    "gaussian:25+blur:0.3x1.2+rows:0.3+columns:0.1+channels:0.5"                        any family, correlated
    "camera:FILE.yaml"                                                    a file of n2s calibrate, on the camera's scale

Nothing here imports torch: programs that never compute read such texts as well.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from n2s_dist.noise.base import UNKNOWN, families
from n2s_dist.noise.calibration import CAMERA, calibration_of
from n2s_dist.noise.correlated import WIDTH, Correlated
from n2s_dist.noise.distribution import NoiseDistribution, NoiseRange
from n2s_dist.noise.field import Field
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.utils.errors import UserError

_TERM = re.compile(r"\+(blur|rows|columns|channels):")  # of a field
_SHARES = (Parameter("rows", 0, 1), Parameter("columns", 0, 1))
_CHANNELS = Parameter("channels", -1, 1)
_FILES = (".yaml", ".yml", f"{CAMERA}:")
_RANGE = re.compile(r"([0-9.]+)-([0-9.]+)")


def parse_noise(text: str) -> NoiseModel:
    """Read "gaussian:25" (sigma in 8-bit levels), "poisson:0.01" (zeta), "gamma:100" (k), "poisson-gaussian:0.01:5".

    Raises UserError for another family or a value out of range.
    """
    found = _parse_part(text, text)
    if not found.is_single:
        raise UserError(f"noise '{text}' is not understood: it is a range, where one level is wanted")
    return found.low


def format_noise(noise: NoiseModel) -> str:
    """The text that parse_noise reads, with values as people write them: "gaussian:25"."""
    return format_training_noise(NoiseDistribution.of(noise))


def parse_training_noise(text: str) -> NoiseDistribution:
    """Read what parse_noise reads, or ranges: "gaussian:5-55,gamma:20-200". "+blur:LOW-HIGH" may follow a family, or
    other terms of a field, which have no ranges.

    Raises UserError for another family, a value out of range, or a range that is none.
    """
    ranges = tuple(_parse_part(part.strip(), text) for part in text.split(","))
    names = [(each.low.family, each.is_correlated) for each in ranges]
    if len(set(names)) < len(names):
        raise UserError(f"noise '{text}' names a family twice: give each one range, and one with +blur")
    return NoiseDistribution(ranges)


def format_training_noise(noise: NoiseDistribution) -> str:
    """The text that parse_training_noise reads."""
    return ",".join(map(_format_part, noise.ranges))


def with_files_read(text: str) -> str:
    """The same noise with what its files hold in their place, so that the text says all of it."""
    return format_training_noise(parse_training_noise(text)) if any(word in text for word in _FILES) else text


def parse_cell_noise(text: str) -> str:
    """ "gaussian:25" as results write it; the name of a family alone stays, and "unknown".

    Raises UserError for anything else.
    """
    name = _name(text)
    return name if name == UNKNOWN or name in families() else format_noise(parse_noise(text))


def noise_title(text: str) -> str:
    """How reports call "gaussian:25", "Gaussian, σ = 25", or "gaussian", "Gaussian"; other text stays as it is."""
    name = _name(text)
    if name in families():
        return families()[name].title.partition(",")[0] or text
    try:
        noise = parse_noise(text)
    except UserError:  # results of a family that this program does not know
        return text
    written = [each.write(value) for each, value in zip(noise.parameters, noise.values, strict=True)]
    return noise.white.title.format(*written) + field_title(noise.field) if noise.white.title else text


def field_title(field: Field) -> str:
    """How reports go on where noise is correlated: ", blurred by 0.7 px"; nothing where it is not."""
    blur = f"blurred by {_with_crosses(map(WIDTH.write, field.widths))} px" if any(field.widths) else ""
    shares = [f"{each.write(100 * share)} % in {each.name}" for each in _SHARES if (share := getattr(field, each.name))]
    return "".join(f", {words}" for words in (blur, *shares, "channels correlated" if field.channels else "") if words)


def _name(text: str) -> str:
    """A family's name; the old spelling poisson_gaussian is read on."""
    return text.replace("_", "-")


def _parse_part(part: str, text: str) -> NoiseRange:
    """One family. text: the whole, which errors name."""
    main, *split = _TERM.split(part)
    terms = dict(zip(split[::2], split[1::2], strict=True))
    name, _, values_text = main.partition(":")
    if name == CAMERA and values_text:
        return _of_camera(main, terms, text)
    family, value_texts = families().get(_name(name)), values_text.split(":")
    if family is None or 2 * len(terms) < len(split):
        raise UserError(f"noise '{text}' is not understood: {_usage()}")
    if family.text_form:
        return _with_field(_parse_text(family, values_text, text), terms, part, text)
    left_out = family.parameters[len(value_texts) :]
    if len(value_texts) > len(family.parameters) or any(each.default is None for each in left_out):
        raise UserError(f"noise '{text}' is not understood: {_usage()}")
    ends = [
        _parse_range(each, value, part, text)
        for each, value in zip(family.parameters, value_texts, strict=False)
    ]  # fmt: skip
    ends += [(each.default, each.default) for each in left_out if each.default is not None]
    low, high = (family(*values) for values in zip(*ends, strict=True))
    return _with_field(NoiseRange(low, high), terms, part, text)


def _of_camera(main: str, terms: dict[str, str], text: str) -> NoiseRange:
    """The noise of a calibrated camera, on the scale of its own black and white."""
    if terms:
        raise UserError(
            f"noise '{text}' has +{next(iter(terms))}, but the camera's file says how its noise is correlated: leave "
            "it out"
        )
    camera = calibration_of(main)
    assert camera is not None
    return NoiseRange(camera.noise(), camera.noise())


def _parse_text(family: type[NoiseModel], written: str, text: str) -> NoiseRange:
    """A noise whose parameters are no plain numbers."""
    try:
        noise = family.of_text(written)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"noise '{text}' is not understood ({error}): write {family.text_form}") from None
    return NoiseRange(noise, noise)


def _with_field(white: NoiseRange, terms: dict[str, str], part: str, text: str) -> NoiseRange:
    """The same, correlated as the terms of a field say, by their names."""
    shares = {each.name: _parse_single(each, terms.get(each.name, "0"), part, text) for each in _SHARES}
    channels = tuple(_parse_single(_CHANNELS, each, part, text) for each in terms.get("channels", "0").split(":"))
    axes = [_parse_range(WIDTH, each, part, text) for each in terms.get("blur", "0").split("x")]
    if len(channels) not in (1, 3) or len(axes) > 2:
        raise UserError(f"noise '{text}' is not understood: {_usage()}")
    if len(set(axes)) == 1 and axes[0][0] == axes[0][1]:
        axes = axes[:1]  # as one number; two ranges are two numbers, though they are equal
    narrow, wide = zip(*axes, strict=True)
    try:
        pattern = Field((), **shares, channels=channels * (3 // len(channels)) if any(channels) else ())
    except ValueError as error:
        raise UserError(f"noise '{text}' can't be: {error}") from None
    low, high = (replace(pattern, widths=widths if any(wide) else ()) for widths in (narrow, wide))
    return white if high.is_white else NoiseRange(Correlated(white.low, low), Correlated(white.high, high))


def _parse_single(parameter: Parameter, value: str, part: str, text: str) -> float:
    """What no network is told, so that it has no range."""
    if _RANGE.fullmatch(value):
        raise UserError(
            f"noise '{text}' has a range of {parameter.name}, which no network is told: give one value, such as "
            f"+{parameter.name}:0.3"
        )
    return _parse_range(parameter, value, part, text)[0]


def _parse_range(parameter: Parameter, value: str, part: str, text: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(value)
    try:
        low, high = (parameter.read(end) for end in (found.groups() if found else (value, value)))
    except ValueError:
        raise UserError(f"noise '{text}' is not understood: {_usage()}") from None
    if found and not low < high:
        raise UserError(f"noise '{text}' has a range whose ends are not in order: {part}")
    return low, high


def _usage() -> str:
    """What may be written, families of plugins included."""
    each = ", ".join(
        family.text_form
        or name
        + "".join(f"[:{p.name.upper()}]" if p.default is not None else f":{p.name.upper()}" for p in family.parameters)
        + " with "
        + " and ".join(parameter.limits for parameter in family.parameters)
        for name, family in families().items()
    )
    return (
        f"write {each}, or {CAMERA}:FILE.yaml; each value may be a range LOWEST-HIGHEST, and +blur:WIDTH or "
        "+blur:ACROSSxDOWN may follow, in pixels up to 8, +rows:SHARE and +columns:SHARE of the variance, and "
        "+channels:CORRELATION"
    )


def _format_part(part: NoiseRange) -> str:
    written = [
        each.write(low) if low == high else f"{each.write(low)}-{each.write(high)}"
        for each, low, high in part.parameters()
    ]
    field = part.high.field
    plain = len(written) - len(field.widths)
    blur = f"+blur:{_with_crosses(written[plain:])}" if field.widths else ""
    del written[plain:]
    for each, low, high in list(part.parameters())[: len(written)][::-1]:
        if not low == high == each.default:
            break
        written.pop()
    if part.low.text_form:
        written = [part.low.to_text()]
    return ":".join([part.low.family, *written]) + blur + "".join(_format_pattern(field))


def _format_pattern(field: Field) -> Iterator[str]:
    for each in _SHARES:
        if share := getattr(field, each.name):
            yield f"+{each.name}:{each.write(share)}"
    if field.channels:
        written = [_CHANNELS.write(value) for value in field.channels]
        yield f"+channels:{':'.join(written if len(set(written)) > 1 else written[:1])}"


def _with_crosses(widths: Iterable[str]) -> str:
    return "x".join(widths)
