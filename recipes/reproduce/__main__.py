"""``python -m recipes.reproduce``: short for ``python -m recipes reproduce``."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
