"""Say what a folder of shards holds, and draw some of its tiles, clean and noisy.

n2s inspect-shards shards/photographs
"""

import argparse
from pathlib import Path

from n2s_dist.images.eight_bit import write_image
from n2s_dist.noise.specification import parse_noise
from n2s_dist.shards.preview import contact_sheet, summary
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=path_option, metavar="DIR", help="shards made by n2s build-shards")
    parser.add_argument("--split", default="train", help="the split to look into (%(default)s)")
    parser.add_argument("--out", type=path_option, metavar="FILE.png",
        help="the contact sheet (runs/inspect/NAME.png, NAME the folder's)")  # fmt: skip
    parser.add_argument("--tiles", type=int, default=24, help="tiles on the sheet (%(default)s)")
    parser.add_argument("--noise", default="gaussian:25", help="of the noisy half of each pair (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the tiles, and their noise (%(default)s)")
    args = parser.parse_args()

    noise = parse_noise(args.noise)
    out = args.out or Path("runs/inspect") / f"{args.folder.resolve().name}.png"
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}: name a .png file, since others would lose pixels")
    lines = summary(args.folder, args.split)
    sheet = contact_sheet(ShardSet(args.folder, args.split), args.tiles, noise, args.seed)
    write_image(out, sheet.pixels)
    print("\n".join([*lines, "", f"sheet: {out}"]))
