# SPDX-License-Identifier: Apache-2.0
"""Utterance ids as 64-bit hashes: joins of millions of ids without dictionaries.

Equal hashes are a hint, not a proof: whoever reads the record compares the ids.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, UInt64

HASH_BYTES = 8
BLOCK = 1 << 20  # queries at a time


def hash_id(id: str) -> int:
  """Return the hash of an id."""
  digest = hashlib.blake2b(id.encode(errors='surrogatepass'), digest_size=HASH_BYTES)
  return int.from_bytes(digest.digest(), 'little')


def hash_ids(ids: Sequence[str]) -> UInt64[np.ndarray, ' n']:
  """Return the hashes of ids."""
  return np.fromiter(map(hash_id, ids), np.uint64, len(ids))


def find_sorted(
  queries: UInt64[np.ndarray, ' q'], keys: UInt64[np.ndarray, ' n']
) -> Int[np.ndarray, ' q']:
  """Return the first position of each query in the sorted `keys`, -1 if it has none."""
  found = np.full(len(queries), -1, np.int32 if len(keys) < 1 << 31 else np.int64)
  for start in range(0, len(queries) if len(keys) else 0, BLOCK):
    block = queries[start : start + BLOCK]
    order = np.argsort(block)  # sorted queries read `keys` from start to end
    block = block[order]
    positions = np.searchsorted(keys, block)
    exists = keys[np.minimum(positions, len(keys) - 1)] == block
    found[start + order] = np.where(exists, positions, -1)
  return found


def find_shared(
  hashes: Sequence[UInt64[np.ndarray, ' _']], read_id: Callable[[int, int], str]
) -> tuple[int, int, str] | None:
  """Return two groups that have an id in common, and the id; None if there are none.

  hashes: of each group's ids. read_id: returns an id by group and number; it is called
  only for equal hashes of different groups.
  """
  starts = np.cumsum([0, *map(len, hashes)])
  everything = np.concatenate(hashes)
  order = np.argsort(everything, kind='stable')
  ordered = everything[order]
  # Runs of equal hashes: the numbers in one are few, and almost all runs have one.
  begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
  sizes = np.diff(np.r_[begins, len(ordered)])
  for begin, size in zip(begins[sizes > 1], sizes[sizes > 1], strict=True):
    seen: dict[str, int] = {}  # id -> group
    for number in order[begin : begin + size].tolist():
      group = int(np.searchsorted(starts, number, 'right')) - 1
      id = read_id(group, number - int(starts[group]))
      if (other := seen.setdefault(id, group)) != group:
        return other, group, id
  return None
