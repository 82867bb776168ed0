"""Pool: rows that come and go in any order."""

from __future__ import annotations

from typing import Any

import numpy as np


class Pool:
    """An array of rows that grows when every one of them is in use. The first is never used, so
    that 0 can stand for none."""

    def __init__(self, size: int, dtype: Any) -> None:
        self.rows = np.zeros((1, size), dtype)
        self._free: list[int] = []

    def put(self, rows: np.ndarray) -> np.ndarray:
        """Keep copies of these rows. Returns where each of them lies."""
        count, held = len(rows), len(self.rows)
        missing = count - len(self._free)
        if missing > 0:
            more = max(missing, held // 8)  # in place where the system can: a copy would need twice
            self.rows.resize((held + more, self.rows.shape[1]), refcheck=False)
            self._free.extend(range(held, held + more))
        first = len(self._free) - count
        places = np.array(self._free[first:], np.int64)
        del self._free[first:]
        self.rows[places] = rows
        return places

    def drop(self, places: np.ndarray) -> None:
        """These are no longer needed."""
        self._free.extend(places.tolist())
