"""Downloads a data set's official archive and prepares it for TFDS, without TensorFlow.

python -m cglo_jax.prepare cifar100 [--data_dir DIR] [--archive FILE]
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from cglo_jax.data import archives
from cglo_jax.errors import UserError, printable
from cglo_jax.process import streams

# configs/<value>.py
CONFIGS = {"cifar10": "cifar10", "cifar100": "cifar100", "caltech_birds2011": "cub"}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, 2 after an error or 130 when stopped."""
    default = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    parser = argparse.ArgumentParser("python -m cglo_jax.prepare")
    parser.add_argument("name", choices=sorted(archives.ARCHIVES), help="the data set")
    parser.add_argument(
        "--data_dir", type=Path, default=default, help="default: %(default)s"
    )
    parser.add_argument("--archive", type=Path, help="if downloaded by hand")
    parser.add_argument("--segmentations", type=Path, help="caltech_birds2011 only")
    args = parser.parse_args(argv)
    if args.segmentations and args.name != "caltech_birds2011":
        parser.error("--segmentations goes with caltech_birds2011 only")
    data_dir = Path(os.path.expanduser(args.data_dir)).absolute()
    copies = {"--archive": args.archive, "--segmentations": args.segmentations}
    try:
        path = archives.prepare(args.name, data_dir, copies)
    except (UserError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: run this again to continue", file=sys.stderr)
        return 130
    sizes = archives.prepared_sizes(path).items()
    images = ", ".join(f"{n} {split}" for split, n in sizes)
    print(f"{args.name} is prepared in {path} ({images} images). To train on it:")
    run = f"--config={CONFIGS[args.name]}:10 --workdir=runs/{CONFIGS[args.name]}-10"
    if args.data_dir != default:
        run += f" --config.dataset.data_dir={shlex.quote(str(data_dir))}"
    print(f"python -m cglo_jax.main {run}")
    return 0


if __name__ == "__main__":
    streams.mend()
    sys.exit(main())
