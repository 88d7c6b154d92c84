"""The arithmetic of frozen noise as DALI does it."""

from typing import Any

import numpy as np
from nvidia.dali import fn, types

from n2s_dist.noise.frozen import TABLE_SIZE, ArrayMath


def dali_math() -> ArrayMath:
    """For tensors of a graph that is being built."""
    keys = list(range(TABLE_SIZE))
    kinds = {np.dtype(np.float32): types.FLOAT, np.dtype(np.uint32): types.UINT32}

    def lookup(index: Any, table: np.ndarray) -> Any:
        # DALI takes a table's values as float32, whatever their type.
        assert (table.astype(np.float32) == table).all()
        return fn.lookup_table(index, keys=keys, values=table.tolist(), dtype=kinds[table.dtype])

    return ArrayMath(
        lambda value: types.Constant(value).uint32(), lambda value: types.Constant(value).float32(), lookup
    )
