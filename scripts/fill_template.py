#!/usr/bin/env python3
"""The command fill_template in a checkout that is not installed. Needs nothing but Python 3.10.

Where protobuf and tritonclient are there too, the result is checked against Triton's own schema.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import fill_file


def main() -> int:
    parser = argparse.ArgumentParser(
        description=r"Fill the ${placeholders} of a config.pbtxt; a comma in a value is \,",
        epilog="""example: fill_template.py -i preprocessing/config.pbtxt "tokenizer_dir:/models/m"
exit codes: 0 filled, 1 a key or value is wrong, 2 wrong options""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("substitutions", metavar="KEY:VALUE,…")
    parser.add_argument(
        "--in_place", "--in-place", "-i", action="store_true", help="change the file"
    )
    options = parser.parse_args()
    parse = parse_config
    missing = [m for m in ("google.protobuf", "tritonclient.grpc") if not _there(m)]
    if missing:
        sys.stderr.write(
            "fill_template: the result is not checked against Triton's schema, for want of "
            f"{', '.join(missing)}; pip install 'tritonclient[grpc]'\n"
        )
        parse = str
    try:
        filled = fill_file(
            options.file, options.substitutions, in_place=options.in_place, parse=parse
        )
    except RepositoryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not options.in_place:
        sys.stdout.write(filled)
    return 0


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False


if __name__ == "__main__":
    sys.exit(main())
