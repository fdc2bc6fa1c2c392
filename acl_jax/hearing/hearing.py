# SPDX-License-Identifier: Apache-2.0
"""Hears recordings of any length, remembers them, and listens while they last."""

import collections
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from acl_jax.hearing.heard import Heard, HeardToken
from acl_jax.hearing.joiners import new_joiner
from acl_jax.hearing.pieces import Piece, Recogniser, merge
from acl_jax.hearing.windows import Windows
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.text.tokenizer import Tokenizer
from data_pipeline import audio, voice_activity
from data_pipeline.audio import SAMPLE_RATE
from data_pipeline.features import HOP

MAX_SECONDS = 300.0
CACHED_BYTES = 64 << 20
BLOCK = SAMPLE_RATE  # samples that are taken at a time


class Hearing:
  """The ears of a model; its methods may be called from several threads.

  decode: decodes the ids of `SpeechLLM.greedy`, if the model recognises. max_seconds:
  of a recording. cached_bytes: of what was heard and is remembered, about.
  """

  def __init__(
    self,
    model: SpeechLLM,
    tokenizer: Tokenizer,
    decode: Callable[[list[int]], str] | None,
    *,
    max_seconds: float = MAX_SECONDS,
    cached_bytes: int = CACHED_BYTES,
  ):
    self.model, self.tokenizer, self.decode = model, tokenizer, decode
    self.max_seconds = max_seconds
    self.recogniser = Recogniser(model)
    self._cache = _Cache(cached_bytes)

  def warm_up(self, progress: Callable[[str], None] = lambda message: None) -> None:
    """Compile every shape; `progress` is called with the name of each."""
    self.recogniser.warm_up(progress)
    new_joiner(self.recogniser).warm_up()
    if self.model.adapter.recognises:
      self._space  # noqa: B018

  def hear(self, samples: Float[np.ndarray, ' samples']) -> Heard:
    """Hear a recording in -1..1 at 16 kHz.

    ValueError if it is too long, shorter than a frame, or not finite.
    """
    samples = np.asarray(samples, np.float32)
    self.check(samples)
    if heard := self._cache.get(_hash(samples).hexdigest()):
      return heard
    listener = self.listen()
    for start in range(0, len(samples), BLOCK):
      listener.append(samples[start : start + BLOCK])
    return listener.finish()

  def listen(self) -> 'Listener':
    """Start to hear a recording while it lasts."""
    return Listener(self)

  def check(self, samples: Float[np.ndarray, ' samples'], before: int = 0) -> None:
    """Raise ValueError if samples cannot be heard after so many others."""
    if samples.ndim != 1:
      raise ValueError(f'the recording has shape {samples.shape}; it must be 1-D')
    seconds = (before + len(samples)) / SAMPLE_RATE
    if seconds > self.max_seconds:
      raise ValueError(
        f'the recording has {seconds:.1f} s; the limit is {self.max_seconds:g} s'
      )
    limit = audio.Limits().peak
    if len(samples) and not (peak := float(np.abs(samples).max())) <= limit:
      raise ValueError(
        f'the samples of the recording reach {peak:g}; the limit is {limit:g}'
      )

  def is_long(self, samples: Float[np.ndarray, ' samples']) -> bool:
    """Whether a recording is longer than one window."""
    return len(samples) >= (self.recogniser.sizes.window + 1) * HOP

  def remember_whole(
    self, samples: Float[np.ndarray, ' samples'], pieces: Sequence[Piece]
  ) -> Heard:
    """Join the pieces of a whole recording, and store what was heard."""
    content, has_speech = _hash(samples).hexdigest(), voice_activity.has_speech(samples)
    return self.remember(content, pieces, len(samples), has_speech)

  def remember(
    self, content: str, pieces: Sequence[Piece], num_samples: int, has_speech: bool
  ) -> Heard:
    """Join pieces of a recording, and store what was heard."""
    spoken, seconds = merge(pieces), num_samples / SAMPLE_RATE
    transcript = None if self.decode is None else self._transcript(spoken)
    tokens = tuple(itertools.chain.from_iterable(map(self._tokens, spoken)))
    embeddings = self._embeddings(spoken)
    heard = Heard(content, embeddings, transcript, tokens, seconds, has_speech)
    self._cache.put(heard)
    return heard

  def recall(self, content: str) -> Heard | None:
    """Return what was heard of a recording with this hash, if it is remembered."""
    return self._cache.get(content)

  def _transcript(self, pieces: Sequence[Piece]) -> str:
    assert self.decode is not None
    ids = (piece.tokens.ids.tolist() for piece in pieces if piece.tokens is not None)
    texts = (self.decode(each).strip() for each in ids)
    return ' '.join(text for text in texts if text)

  def _embeddings(self, pieces: Sequence[Piece]) -> Float[np.ndarray, 's d']:
    """Return the embeddings of all pieces, a space between words where one ends."""
    parts: list[np.ndarray] = []
    for before, piece in itertools.pairwise([None, *pieces]):
      assert piece is not None
      if before is not None and self._lacks_space(before, piece):
        parts.append(self._space.astype(piece.embeddings.dtype))
      parts.append(piece.embeddings)
    if not parts:
      return np.zeros((0, self.model.adapter.config.llm_size), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def _lacks_space(self, before: Piece, after: Piece) -> bool:
    """Whether the last word of a piece and the first of the next would be one word."""
    if not self.model.adapter.recognises:
      return False
    assert before.tokens is not None and after.tokens is not None
    first, last = int(after.tokens.ids[0]), int(before.tokens.ids[-1])
    return not (self._text(first)[:1].isspace() or self._text(last)[-1:].isspace())

  @functools.cached_property
  def _space(self) -> Float[np.ndarray, 's d']:
    """The LLM's embeddings of a space."""
    ids = np.asarray(self.tokenizer.encode(' ', after='text'), np.int32)
    return np.asarray(_embed(self.model.llama, ids))

  def _tokens(self, piece: Piece) -> list[HeardToken]:
    if piece.tokens is None:
      return []
    ids, log_probs, others, other_log_probs, _ = piece.tokens
    tokens = []
    for i, (start, end) in enumerate(piece.spans.tolist()):
      alternatives = zip(others[i].tolist(), other_log_probs[i].tolist(), strict=True)
      tokens.append(
        HeardToken(
          id=int(ids[i]),
          text=self._text(int(ids[i])),
          log_prob=float(log_probs[i]),
          alternatives=tuple((self._text(j), p) for j, p in alternatives if j >= 0),
          start=start,
          end=end,
        )
      )
    return tokens

  def _text(self, id: int) -> str:
    if self.model.adapter.recognises:
      return self.tokenizer.token_text(id)
    return self.decode([id]) if self.decode else ''


class Listener:
  """Hears a recording while it lasts: a window as soon as it is complete.

  What it returns equals what `Hearing.hear` returns of the whole. For one thread at a
  time; `append` takes as long as a window takes where one is complete.
  """

  def __init__(self, hearing: Hearing):
    self._hearing = hearing
    self._windows = Windows(hearing.recogniser.sizes)
    self._joiner = new_joiner(hearing.recogniser)
    self._activity = voice_activity.listen()
    self._pieces: list[Piece] = []
    self._hash = _hash(np.zeros(0, np.float32))
    self._count = 0
    self._finished = False

  def append(self, samples: Float[np.ndarray, ' samples']) -> None:
    """Take samples in -1..1 at 16 kHz; ValueError as for `Hearing.hear`."""
    if self._finished:
      raise ValueError('the recording is finished; start another one by listen()')
    samples = np.array(samples, np.float32)  # the caller may reuse its array
    self._hearing.check(samples, self._count)
    self._hash.update(samples.tobytes())
    self._count += len(samples)
    self._activity.append(samples)
    for window in self._windows.append(samples):
      self._pieces += self._joiner.append(window)

  def finish(self) -> Heard:
    """Hear the rest."""
    if self._finished:
      raise ValueError('the recording is finished; start another one by listen()')
    self._finished = True
    content = self._hash.hexdigest()
    if heard := self._hearing.recall(content):
      return heard
    self._pieces += self._joiner.finish(self._windows.finish())
    has_speech = self._activity.finish()
    return self._hearing.remember(content, self._pieces, self._count, has_speech)


class _Cache:
  """What was heard, by content; the least recently used is dropped."""

  def __init__(self, limit: int):
    self._limit, self._bytes = limit, 0
    self._heard: collections.OrderedDict[str, Heard] = collections.OrderedDict()
    self._lock = threading.Lock()

  def get(self, content: str) -> Heard | None:
    with self._lock:
      if content in self._heard:
        self._heard.move_to_end(content)
      return self._heard.get(content)

  def put(self, heard: Heard) -> None:
    with self._lock:
      if heard.content in self._heard:
        return
      self._heard[heard.content] = heard
      self._bytes += heard.num_bytes
      while self._bytes > self._limit:
        _, dropped = self._heard.popitem(last=False)
        self._bytes -= dropped.num_bytes


def _hash(samples: np.ndarray):
  return hashlib.sha256(np.ascontiguousarray(samples).tobytes())


@jax.jit
def _embed(llama, tokens):
  return llama.embed(tokens)
