"""What the user should know and need not mend: a line on standard error, from the first process only."""

import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only


@rank_zero_only
def tell(message: str) -> None:
    """Prints ``note: message``."""
    print(f"note: {message}", file=sys.stderr)
