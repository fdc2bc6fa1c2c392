# SPDX-License-Identifier: Apache-2.0
"""Letters: of transcripts, to be recognised, and of tokens, to tell how they sound.

A rare token's LLM embedding says little of how it sounds; its spelling does. It becomes
the sum of vectors for letter pairs and triples, hashed into buckets (Bojanowski et al.
2017), so that what was learnt of `telegraph` helps `telephone`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from acl_jax.models.layers import Constant, param

MAX_TOKEN_LETTERS = 12  # of a token; the rest is not looked at
NUM_BUCKETS = 2_048
ALPHABET = "abcdefghijklmnopqrstuvwxyz '"  # numbered from 1 on; 0 is none
NUM_LETTERS = len(ALPHABET)
ALPHABET_SIZE = 31  # of a token: those and two more, for all other signs
MULTIPLIER = np.uint32(2_654_435_761)  # Knuth's multiplicative hashing


class Spelling(nnx.Module):
  """A vector for each token of a vocabulary from its `letters`."""

  def __init__(self, vocabulary_size: int, size: int, *, rngs: nnx.Rngs):
    self.letters = Constant(jnp.zeros((vocabulary_size, MAX_TOKEN_LETTERS), jnp.uint8))
    self.buckets = param(rngs, (NUM_BUCKETS, size), ('vocab', 'llm'), size**-0.5)

  def __call__(self, candidates: Int[Array, ' w'] | None = None) -> Float[Array, 'w k']:
    """The vectors of all tokens, or of those `candidates` them."""
    letters = self.letters[...] if candidates is None else self.letters[...][candidates]
    bucket, present = ngrams(letters)
    # One n-gram at a time: all at once would be 24 times as large as the result.
    total = sum(
      self.buckets[...][bucket[:, i]] * present[:, i, None]
      for i in range(bucket.shape[1])
    )
    count = jnp.maximum(jnp.sum(present, axis=1), 1)
    return total / jnp.sqrt(count)[:, None]


def ngrams(
  letters: UInt8[Array, 'w l'],
) -> tuple[Int[Array, 'w g'], Float[Array, 'w g']]:
  """The bucket of every letter pair and triple, edges included, and which are any."""
  x = jnp.pad(letters.astype(jnp.uint32), ((0, 0), (1, 1)))
  before, here, after = x[:, :-2], x[:, 1:-1], x[:, 2:]
  pairs = before * ALPHABET_SIZE + here
  triples = (
    pairs * ALPHABET_SIZE + after + ALPHABET_SIZE**2
  )  # no triple is equal to a pair
  hashed = (jnp.concatenate([pairs, triples], axis=1) * MULTIPLIER) >> 16
  present = jnp.concatenate([(before > 0) | (here > 0), here > 0], axis=1)
  return (hashed % NUM_BUCKETS).astype(jnp.int32), present.astype(jnp.float32)


def token_letters(pieces: Sequence[str]) -> UInt8[np.ndarray, 'v l']:
  """The letters of each piece of text as numbers, capitals as small ones."""
  letters = np.zeros((len(pieces), MAX_TOKEN_LETTERS), np.uint8)
  for row, piece in zip(letters, pieces, strict=True):
    numbers = [_number(letter) for letter in piece.lower()[:MAX_TOKEN_LETTERS]]
    row[: len(numbers)] = numbers
  return letters


def encode_letters(text: str) -> list[int]:
  """A transcript's letters, apostrophes, and single spaces between words, from 1 on."""
  kept = (letter for letter in text.lower().replace('-', ' ') if letter in ALPHABET)
  return [_number(letter) for letter in ' '.join(''.join(kept).split())]


def _number(letter: str) -> int:
  if letter in ALPHABET:
    return ALPHABET.index(letter) + 1
  return NUM_LETTERS + ord(letter) % 3
