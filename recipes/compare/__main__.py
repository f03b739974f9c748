"""``python -m recipes.compare``: short for ``python -m recipes compare``."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
