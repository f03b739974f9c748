"""Whether the compiled step can be tested; builds it where it is missing or older than its sources."""

from __future__ import annotations

import pytest

from lightning_adafactor.compiled import build, library


def _reason() -> str | None:
    if isinstance(library.load(), library.Library):
        return None
    try:
        build.build()
    except build.BuildError as error:
        return str(error)
    library.load.cache_clear()
    loaded = library.load()
    return loaded if isinstance(loaded, str) else None


REASON = _reason()
needs_compiled = pytest.mark.skipif(REASON is not None, reason=f"needs the compiled step: {REASON}")
