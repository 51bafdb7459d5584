"""Which metadata names the rows carry: a filter on a name that no row has matches nothing, silently."""

import difflib
from collections.abc import Callable, Iterable

_MOST_NAMES = 10_000


class MetadataNames:
    """Names seen in results, and names found missing a moment ago. Safe to share between threads: it only caches."""

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._seen: set[str] = set()
        self._missing: dict[str, float] = {}
        self._ttl_s = ttl_s
        self._clock = clock

    def learn(self, names: Iterable[str]) -> None:
        """These names stand in rows."""
        if len(self._seen) < _MOST_NAMES:
            self._seen.update(names)

    def missing(self, names: Iterable[str], exists: Callable[[str], bool]) -> list[str]:
        """Those of `names` that no row carries; `exists` asks Milvus about a name not known yet."""
        absent = []
        for name in names:
            if name in self._seen:
                continue
            if self._missing.get(name, 0.0) > self._clock():
                absent.append(name)
            elif exists(name):
                self.learn((name,))
            else:
                if len(self._missing) >= _MOST_NAMES:
                    self._missing.clear()
                self._missing[name] = self._clock() + self._ttl_s
                absent.append(name)
        return absent

    def near(self, name: str, declared: Iterable[str]) -> str | None:
        """A name that rows do carry and that looks like `name`."""
        close = difflib.get_close_matches(name, {*self._seen.copy(), *declared}, n=1, cutoff=0.7)
        return close[0] if close else None
