"""How much other programs used the CPUs while a process ran: times measured beside them are not comparable."""

import sys
import time
from dataclasses import dataclass, field


def _own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended, with theirs."""
    if sys.platform == "win32":
        return 0.0
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _busy_seconds() -> float:
    """CPU seconds of all programs of this machine."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


@dataclass
class OtherLoad:
    """Measures the load from its creation on."""

    started: float = field(default_factory=time.monotonic)
    busy: float = field(default_factory=_busy_seconds)
    own: float = field(default_factory=_own_seconds)

    def cores(self) -> float | None:
        """The mean number of CPU cores that other programs kept busy until now.

        Call it after the process has ended and was waited for. In a container that shares its machine, these include
        programs outside of it where the system shows their time. None where the system does not tell (Windows).
        """
        seconds = time.monotonic() - self.started
        if sys.platform == "win32" or seconds <= 0:
            return None
        others = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return round(max(others, 0.0) / seconds, 2)
