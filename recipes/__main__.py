"""``python -m recipes {fit,validate,test,predict} --config FILE``."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
