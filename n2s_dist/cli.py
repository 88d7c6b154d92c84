"""The command n2s: one program for the whole way from images to a report."""

import importlib
import runpy
import sys

from n2s_dist.utils import streams
from n2s_dist.utils.errors import UserError, nearest, run_command

# Each subcommand's module and what it does, in the order in which they are used. Modules are imported when they are
# chosen, since some take seconds.
COMMANDS = {
    "fetch": ("commands.fetch", "download a data set by name, or take over a copy"),
    "build-shards": ("commands.build_shards", "turn images into shards, with noise or as they are"),
    "verify-shards": ("commands.verify_shards", "check shards, and mend damaged ones"),
    "inspect-shards": ("commands.inspect_shards", "say what shards hold, and draw some tiles"),
    "train": ("train", "train a network on noisy images alone"),
    "plot": ("commands.plot", "draw the curves of runs"),
    "evaluate": ("evaluate", "measure networks on benchmarks"),
    "report": ("report", "make one page of results, curves and pictures"),
    "ship": ("commands.ship", "make a trained network one that is found by name"),
    "push": ("commands.push", "share a trained network on a model hub"),
    "denoise": ("denoise", "denoise your own images"),
    "export": ("commands.export", "write a network for other programs: ONNX, BioImage.IO"),
    "adapt": ("commands.adapt", "train a shipped network on your own noisy images"),
    "calibrate": ("commands.calibrate", "measure a camera's noise from its own frames"),
    "inspect-noise": ("commands.inspect_noise", "show the noise of an image, as a picture and in words"),
    "simulate": ("commands.simulate", "make noisy images of known truth"),
}
_PROGRAMS = {"train", "evaluate", "report", "denoise"}  # also called by python -m n2s_dist.NAME

_USAGE = """\
usage: n2s COMMAND [OPTION ...]

From images to a report, and to your own images:

    images
      | build-shards
    shards        noisy tiles, or clean ones that get noise as they are loaded
      | train
    run           checkpoints and curves
      | evaluate                              | ship
    results       figures and pictures      network
      | report                                | denoise
    page                                    your images, denoised

Commands:
{commands}

n2s COMMAND --help lists a command's options. Several ranks are started by
accelerate launch -m n2s_dist.train, or n2s_dist.evaluate.
"""


def usage() -> str:
    """What n2s --help prints, at most 80 columns wide."""
    width = max(map(len, COMMANDS))
    return _USAGE.format(commands="\n".join(f"    {name:<{width}}  {does}" for name, (_, does) in COMMANDS.items()))


def main(command: str | None = None) -> None:
    """Run a subcommand with the rest of the command line: the one given, or the one that the first word names."""
    streams.guard()  # first: what is opened next must not become a stream that was closed
    words = sys.argv[1:] if command is None else [command, *sys.argv[1:]]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    if words[0] == "--version":
        from n2s_dist import __version__

        print(__version__)
        return
    name, *arguments = words
    if name not in COMMANDS:
        run_command(lambda: _refuse(name))
    module = f"n2s_dist.{COMMANDS[name][0]}"
    sys.argv = [f"n2s {name}", *arguments]
    if name in _PROGRAMS:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    else:
        run_command(lambda: importlib.import_module(module).main())  # its imports take time to be interrupted in


def _refuse(name: str) -> None:
    hint = nearest(name, list(COMMANDS)) or f": the commands are {', '.join(COMMANDS)}"
    raise UserError(f"n2s has no command '{name}'{hint}")
