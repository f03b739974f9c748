"""``python -m recipes.fit --config cls.yaml``: short for ``python -m recipes fit --config cls.yaml``."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
