# SPDX-License-Identifier: Apache-2.0
"""Letters of transcripts, as CTC labels, and of tokens, as a hint of their sound.

A rare token's LLM embedding carries little information about its sound; its spelling
does. The spelling vector is the sum of vectors for letter pairs and triples, hashed
into buckets (Bojanowski et al. 2017), so that `telephone` profits from `telegraph`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from acl_jax.models.layers import Constant, param

MAX_TOKEN_LETTERS = 12  # the rest of a token is ignored
NUM_BUCKETS = 2_048
ALPHABET = "abcdefghijklmnopqrstuvwxyz '"  # numbered from 1 on; 0 is none
NUM_LETTERS = len(ALPHABET)
ALPHABET_SIZE = 31  # of tokens: padding, the alphabet, and two for other characters
MULTIPLIER = np.uint32(2_654_435_761)  # Knuth's multiplicative hashing


class Spelling(nnx.Module):
  """Spelling vectors of the tokens of a vocabulary, from their `letters`."""

  def __init__(self, vocabulary_size: int, size: int, *, rngs: nnx.Rngs):
    self.letters = Constant(jnp.zeros((vocabulary_size, MAX_TOKEN_LETTERS), jnp.uint8))
    self.buckets = param(rngs, (NUM_BUCKETS, size), ('vocab', 'llm'), size**-0.5)

  def __call__(self, candidates: Int[Array, ' w'] | None = None) -> Float[Array, 'w k']:
    """Return the vectors of all tokens, or of `candidates`."""
    letters = self.letters[...] if candidates is None else self.letters[...][candidates]
    bucket, present = ngrams(letters)
    # One n-gram at a time: gathering all at once needs 24 times the result's memory.
    total = sum(
      self.buckets[...][bucket[:, i]] * present[:, i, None]
      for i in range(bucket.shape[1])
    )
    count = jnp.maximum(jnp.sum(present, axis=1), 1)
    return total / jnp.sqrt(count)[:, None]


def ngrams(
  letters: UInt8[Array, 'w l'],
) -> tuple[Int[Array, 'w g'], Float[Array, 'w g']]:
  """Return the buckets of letter pairs and triples, edges included, and their mask."""
  x = jnp.pad(letters.astype(jnp.uint32), ((0, 0), (1, 1)))
  before, centre, after = x[:, :-2], x[:, 1:-1], x[:, 2:]
  pairs = before * ALPHABET_SIZE + centre
  # Offset so that no triple equals a pair.
  triples = pairs * ALPHABET_SIZE + after + ALPHABET_SIZE**2
  hashed = (jnp.concatenate([pairs, triples], axis=1) * MULTIPLIER) >> 16
  present = jnp.concatenate([(before > 0) | (centre > 0), centre > 0], axis=1)
  return (hashed % NUM_BUCKETS).astype(jnp.int32), present.astype(jnp.float32)


def token_letters(pieces: Sequence[str]) -> UInt8[np.ndarray, 'v l']:
  """Return the letters of each piece as numbers, in lower case, padded with 0."""
  letters = np.zeros((len(pieces), MAX_TOKEN_LETTERS), np.uint8)
  for row, piece in zip(letters, pieces, strict=True):
    numbers = [_number(letter) for letter in piece.lower()[:MAX_TOKEN_LETTERS]]
    row[: len(numbers)] = numbers
  return letters


def encode_letters(text: str) -> list[int]:
  """Return a transcript's letters, apostrophes and single spaces, numbered from 1."""
  letters = (x for x in text.lower().replace('-', ' ') if x in ALPHABET)
  return [_number(letter) for letter in ' '.join(''.join(letters).split())]


def _number(letter: str) -> int:
  if letter in ALPHABET:
    return ALPHABET.index(letter) + 1
  return NUM_LETTERS + ord(letter) % 3
