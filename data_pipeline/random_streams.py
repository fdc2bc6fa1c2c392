# SPDX-License-Identifier: Apache-2.0
"""The first number of many of NumPy's random generators at once.

`np.random.default_rng([*prefix, i]).random()` for millions of `i`, bit for bit, without
making a generator for each. Source: NumPy's `SeedSequence` (O'Neill's `randutils`) and
PCG64 (XSL RR 128/64), whose streams NumPy does not change.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64

POOL = 4  # words of 32 bits
BLOCK = 1 << 16  # generators at a time, so that intermediate results fit in the cache

INIT_A, MULT_A = 0x43B0D7E5, 0x931E8875
INIT_B, MULT_B = 0x8B51F9DD, 0x58F38DED
MIX_L, MIX_R = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
PCG_MULT = 0x2360ED051FC65DA44385DF649FCCF645
MASK_32, MASK_64 = (1 << 32) - 1, (1 << 64) - 1

Words = Sequence[np.ndarray]  # uint32, one element for all generators or for each
Wide = tuple[UInt64[np.ndarray, ' n'], UInt64[np.ndarray, ' n']]  # 128 bits: high, low


def first_uniforms(
  prefix: Sequence[int], last: Int[np.ndarray, ' n']
) -> Float[np.ndarray, ' n']:
  """Return the first number in [0, 1) of the generators of seeds [*prefix, i].

  last: every i, from 0 to 2**32 - 1.
  """
  if len(last) and not 0 <= last.min() <= last.max() <= MASK_32:
    raise ValueError(f'seeds reach from {last.min()} to {last.max()}; limit {MASK_32}')
  blocks = range(0, len(last), BLOCK)
  parts = [_first_uniforms(prefix, last[i : i + BLOCK]) for i in blocks]
  return np.concatenate(parts) if parts else np.empty(0)


def _first_uniforms(
  prefix: Sequence[int], last: Int[np.ndarray, ' n']
) -> Float[np.ndarray, ' n']:
  words = [np.asarray([w], np.uint32) for seed in prefix for w in _split(seed)]
  pool = _mix_entropy([*words, last.astype(np.uint32)], len(last))
  start, stream = _generate_state(pool)
  increment = _double(stream)
  wide = _step(_add(increment, start), increment)
  high, low = _step(wide, increment)
  rotation = high >> np.uint64(58)
  mixed = high ^ low
  bits = (mixed >> rotation) | (mixed << (-rotation & np.uint64(63)))
  return (bits >> np.uint64(11)) * 2.0**-53


def _split(number: int) -> list[int]:
  """Return the 32-bit words of a seed, the lowest first; one for 0."""
  if number < 0:
    raise ValueError(f'a seed is {number}; it must not be negative')
  count = max(1, -(-number.bit_length() // 32))
  return [(number >> 32 * i) & MASK_32 for i in range(count)]


class _Hash:
  """A hash whose constant changes with every call."""

  def __init__(self, constant: int, multiplier: int):
    self.constant, self.multiplier = constant, multiplier

  def __call__(self, word: np.ndarray) -> np.ndarray:
    word = np.bitwise_xor(word, np.uint32(self.constant))
    self.constant = self.constant * self.multiplier & MASK_32
    word = np.multiply(word, np.uint32(self.constant))
    return word ^ (word >> np.uint32(16))


def _mix_entropy(words: Words, count: int) -> list[np.ndarray]:
  """Return the pool of a `SeedSequence` of the words."""
  hashed = _Hash(INIT_A, MULT_A)
  zero = np.zeros(count, np.uint32)  # makes every word of the pool an array
  padded = [*words, *[np.zeros(1, np.uint32)] * (POOL - len(words))]
  pool = [zero + hashed(word) for word in padded[:POOL]]
  for source in range(POOL):
    for target in range(POOL):
      if source != target:
        pool[target] = _mix(pool[target], hashed(pool[source]))
  for word in padded[POOL:]:
    for target in range(POOL):
      pool[target] = _mix(pool[target], hashed(word))
  return pool


def _mix(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  mixed = MIX_L * x - MIX_R * y
  return mixed ^ (mixed >> np.uint32(16))


def _generate_state(pool: Sequence[np.ndarray]) -> tuple[Wide, Wide]:
  """Return the state and the stream that seed PCG64."""
  hashed = _Hash(INIT_B, MULT_B)
  words = [hashed(pool[i % POOL]).astype(np.uint64) for i in range(8)]
  a, b, c, d = (words[2 * i] | (words[2 * i + 1] << np.uint64(32)) for i in range(4))
  return (a, b), (c, d)


def _add(a: Wide, b: Wide) -> Wide:
  low = a[1] + b[1]
  return a[0] + b[0] + (low < a[1]), low


def _double(a: Wide) -> Wide:
  """Return 2 a + 1, the odd increment of a stream."""
  one, top = np.uint64(1), np.uint64(63)
  return (a[0] << one) | (a[1] >> top), (a[1] << one) | one


def _step(state: Wide, increment: Wide) -> Wide:
  """Return the next state of the linear congruential generator."""
  high, low = state
  factor_high, factor_low = np.uint64(PCG_MULT >> 64), np.uint64(PCG_MULT & MASK_64)
  product_high, product_low = _multiply(low, factor_low)
  product_high = product_high + high * factor_low + low * factor_high
  return _add((product_high, product_low), increment)


def _multiply(a: np.ndarray, b: np.uint64) -> Wide:
  """Return the 128 bits of the products of 64-bit numbers."""
  half, mask = np.uint64(32), np.uint64(MASK_32)
  a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
  low = a_low * b_low
  middle = a_high * b_low + (low >> half)
  other = a_low * b_high + (middle & mask)
  return a_high * b_high + (middle >> half) + (other >> half), a * b
