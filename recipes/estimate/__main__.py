"""``python -m recipes.estimate``: short for ``python -m recipes estimate``."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["estimate", *sys.argv[1:]]))
