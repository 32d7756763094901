"""Fetches ImageNet's weights ahead of time, for machines without a network.

python -m cglo_jax.pretrained vgg16 resnet50 [--full]
"""

import argparse
import sys

from cglo_jax.errors import UserError, printable
from cglo_jax.pretrained import cache, networks
from cglo_jax.pretrained.cache import PINNED
from cglo_jax.process import streams
from cglo_jax.process.setup import cache_dir


def main(argv: list[str] | None = None) -> int:
    """Runs the command with `argv`, by default the process's own, and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cglo_jax.pretrained",
        description="Fetches networks' ImageNet weights ahead of time.",
    )
    parser.add_argument("networks", nargs="+", choices=sorted(PINNED))
    parser.add_argument(
        "--full",
        action="store_true",
        help="download all of VGG-16's file (553 MB instead of 49), the only way to "
        "check its pinned sha256",
    )
    args = parser.parse_args(argv)
    try:
        for network in dict.fromkeys(args.networks):
            cache.get(PINNED[network], networks.SHAPES[network](), full=args.full)
            print(networks.load(network, "imagenet")[1].describe())
            print(cache_dir() / PINNED[network].file, flush=True)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing that is incomplete was kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    streams.mend()
    sys.exit(main())
