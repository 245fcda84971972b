"""Arrow arrays of any layout as plain ones, for which every kernel exists: what the encoder and the readers see.

pyarrow is imported only where an Arrow array is met, so that a service does not need it.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def plain(array: Any) -> Any:
    """The same values as string, binary, list, a dictionary of strings, or a number; itself where it is that already.

    Views, run-end encoded and large types, fixed-size lists, extension types and dictionaries of anything else are
    rewritten, also inside lists. Structs and maps stay as they are.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    t = array.type
    if isinstance(t, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_run_end_encoded(t):
        return plain(pc.run_end_decode(array))  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_string_view(t) or pa.types.is_large_string(t):
        return array.cast(pa.string())
    if pa.types.is_binary_view(t) or pa.types.is_large_binary(t):
        return array.cast(pa.binary())
    if pa.types.is_float16(t):
        return array.cast(pa.float32())
    if pa.types.is_dictionary(t):
        values = plain(array.dictionary)
        if not pa.types.is_string(values.type):
            return plain(array.dictionary_decode())
        return array if values is array.dictionary else pa.DictionaryArray.from_arrays(array.indices, values)
    if is_list(t):
        return _plain_list(array)
    return array


def is_list(t: Any) -> bool:
    """Whether a type is one of Arrow's five types of lists."""
    import pyarrow as pa

    return any(
        is_one(t)
        for is_one in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


def _plain_list(array: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_list(array.type):
        value_type = array.type.value_type
        if not pa.types.is_dictionary(value_type) and plain(array.values.slice(0, 0)).type == value_type:
            return array
    lengths, valid, elements = list_parts(array)
    elements = plain(elements)
    if pa.types.is_dictionary(elements.type):
        elements = elements.dictionary_decode()
    return list_of(lengths, valid, elements)


def list_parts(array: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Lengths int64 `[n]`, 0 for a null; where there is a list, bool `[n]`; the elements of all of them, in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    valid = np.asarray(array.is_valid())
    if not (pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type)):
        return lengths, valid, array.flatten()
    # A view's lists lie in any order, and pyarrow 26 casts and flattens them to wrong ones: take them one by one.
    starts = array.offsets.to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return lengths, valid, plain(array.values).take(pa.array(at))


def list_of(lengths: np.ndarray, valid: np.ndarray, elements: Any) -> Any:
    """The inverse of `list_parts`, as a list array."""
    import pyarrow as pa

    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, elements, mask=None if valid.all() else pa.array(~valid))


def identity(array: Any) -> tuple[Any, ...]:
    """Equal for Arrow arrays that are the same memory, as long as one of them lives."""
    import pyarrow as pa

    t, inside = array.type, ()
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        inside = identity(array.values)
    return str(t), len(array), array.offset, *(b and (b.address, b.size) for b in array.buffers()), *inside
