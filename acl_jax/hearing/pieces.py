# SPDX-License-Identifier: Apache-2.0
"""From windows of a recording to embeddings and tokens, by the jitted model.

A decoder (`adapter.reach` is None) writes the own frames of each window. Otherwise own
frames of consecutive windows are joined and then adapted, a stretch at a time, with
enough frames on both sides that the stretches do not show.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from acl_jax.batches.padded import PaddedFrames, pad_to_step
from acl_jax.hearing.windows import Window, WindowSizes
from acl_jax.models.protocols import Adapter
from acl_jax.models.recognition import Recognition, Tokens
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.rounding import round_up
from data_pipeline.features import HOP, SAMPLE_RATE, Frontend

FRAME_STEP = 200  # log-mel frames, 2 s: windows are padded to a multiple
# A decoder is trained on single utterances, which seldom last longer.
DECODER_WINDOW, WINDOW = 1_500, 3_000  # log-mel frames, 15 s and 30 s
LONGEST_RUN = 50  # encoder frames: a CTC token that is longer may be cut at a seam


class Piece(NamedTuple):
  """What was heard in a part of a recording.

  spans: start and end of every token in seconds, NaN if unknown. joins: whether it
  continues the piece before without a pause.
  """

  embeddings: Any  # [s d]
  tokens: Tokens | None
  spans: Float[np.ndarray, 'r 2']
  joins: bool = False


def merge(pieces: Sequence[Piece]) -> list[Piece]:
  """Merge each piece with those that join it; leave out those that hold nothing."""
  groups: list[list[Piece]] = []
  for piece in pieces:
    if not piece.joins:
      groups.append([])
    groups[-1].append(piece)
  merged = [
    group[0] if len(group) == 1 else jax.tree.map(_concatenate, *group)
    for group in groups
  ]
  return [piece for piece in merged if len(piece.embeddings) or len(piece.spans)]


def _concatenate(*parts: Any) -> Any:
  return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else parts[0]


def window_sizes(encoder: Any, adapter: Adapter) -> WindowSizes:
  """Return the sizes of the windows in which a model hears; `encoder`: its config."""
  longest = DECODER_WINDOW if adapter.reach is None else WINDOW
  limit = encoder.max_frames - encoder.trailing_silence
  step = encoder.subsampling
  return WindowSizes(min(longest, limit) // step * step, step)


class Recogniser:
  """Runs a model on windows, in few shapes."""

  def __init__(self, model: SpeechLLM):
    self.model = model
    encoder, adapter = model.encoder.config, model.adapter
    self.frontend = Frontend.of(encoder)
    self.silence = encoder.trailing_silence
    self.sizes = window_sizes(encoder, adapter)

  def new_joiner(self) -> 'DecoderJoiner | FrameJoiner':
    """Return what turns the windows of one recording into pieces."""
    reach = self.model.adapter.reach
    return DecoderJoiner(self) if reach is None else FrameJoiner(self, reach)

  def hear(self, window: Window) -> Piece:
    """Encode and adapt the own frames of a window."""
    mels = self._log_mel(window)
    own = self._own_frames(window, mels)
    piece = self._to_piece(_recognise(self.model, *mels, own), window.start)
    # The last token may have frames of the silence that follows.
    end = (window.start * HOP + len(window.samples)) / SAMPLE_RATE
    return piece._replace(spans=np.minimum(piece.spans, end))

  def encode(self, window: Window) -> Float[np.ndarray, 't d']:
    """Return the encoder frames of a window's own frames."""
    mels = self._log_mel(window)
    frames, mask = jax.device_get(_encode(self.model, *mels))
    return frames[0][mask[0] & self._own_frames(window, mels)[0]]

  def adapt(
    self, frames: Float[np.ndarray, 't d'], own: tuple[int, int], length: int
  ) -> Recognition:
    """Adapt encoder frames, padded to `length`; keep what starts in `own` frames."""
    mask = np.arange(length) < len(frames)
    padded = np.zeros((length, frames.shape[1]), frames.dtype)
    padded[: len(frames)] = frames
    heard = jax.device_get(_adapt(self.model, padded[None], mask[None]))
    keep = (heard.starts >= own[0]) & (heard.starts < own[1])
    tokens = heard.tokens
    if tokens is not None:
      starts = tokens.spans[..., 0]
      inside = (starts >= own[0]) & (starts < own[1])
      tokens = tokens._replace(ids=np.where(inside, tokens.ids, -1))
    return heard._replace(mask=heard.mask & keep, tokens=tokens)

  def to_piece(self, heard: Recognition, start: int, joins: bool) -> Piece:
    """Return a recognition as a piece; `start` is its log-mel frame 0."""
    return self._to_piece(heard, start)._replace(joins=joins)

  def warm_up(self, progress: Callable[[str], None]) -> None:
    """Compile every shape."""
    encoder = self.model.encoder.config
    first, longest = (
      round_up(frames + self.silence, FRAME_STEP) for frames in (1, self.sizes.window)
    )
    lengths = range(first, longest + 1, FRAME_STEP)
    for length in lengths:
      length = min(length, encoder.max_frames)
      progress(f'hearing: up to {length * HOP / SAMPLE_RATE:g} s')
      mels = PaddedFrames(
        np.zeros((1, length, encoder.num_mel_bins), np.float32),
        np.ones((1, length), bool),
      )
      own = np.ones((1, -(-length // self.sizes.step)), bool)
      jax.block_until_ready(_recognise(self.model, *mels, own))
      if self.model.adapter.reach is not None:
        jax.block_until_ready(_encode(self.model, *mels))
    if self.model.adapter.reach is not None:
      joiner = FrameJoiner(self, self.model.adapter.reach)
      frames = np.zeros((1, encoder.output_size), np.float32)
      self.adapt(frames, (0, 1), joiner.length)

  def _log_mel(self, window: Window) -> PaddedFrames:
    encoder = self.model.encoder.config
    log_mel = self.frontend.log_mel(window.samples)
    return pad_to_step([log_mel], 1, encoder.max_frames, FRAME_STEP)

  def _own_frames(self, window: Window, mels: PaddedFrames) -> Bool[np.ndarray, '1 u']:
    step, (first, stop) = self.sizes.step, window.own
    frames = np.arange(-(-mels.log_mel.shape[1] // step))
    last = len(frames) if stop is None else stop // step
    return ((frames >= first // step) & (frames < last))[None]

  def _to_piece(self, heard: Recognition, start: int) -> Piece:
    heard = jax.device_get(heard)
    embeddings = heard.embeddings[0][heard.mask[0]]
    if heard.tokens is None:
      return Piece(embeddings, None, np.zeros((0, 2)))
    spans, rows = heard.tokens.spans, heard.tokens.ids[0] >= 0
    tokens = jax.tree.map(lambda x: x[0][rows], heard.tokens)
    if spans is None:
      return Piece(embeddings, tokens, np.full((int(rows.sum()), 2), np.nan))
    seconds = (start + tokens.spans * self.sizes.step) * (HOP / SAMPLE_RATE)
    return Piece(embeddings, tokens, seconds)


class DecoderJoiner:
  """Windows that a decoder writes one by one."""

  def __init__(self, recogniser: Recogniser):
    self._recogniser = recogniser

  def append(self, window: Window) -> Iterator[Piece]:
    """Yield what was heard in a window."""
    if not window.silent:
      yield self._recogniser.hear(window.alone())

  def finish(self, window: Window) -> Iterator[Piece]:
    """Yield what was heard in the last window."""
    yield from self.append(window)


class FrameJoiner:
  """Encoder frames joined across windows, then adapted in overlapping stretches.

  reach: see `protocols.Adapter`.
  """

  def __init__(self, recogniser: Recogniser, reach: int):
    self._recogniser = recogniser
    sizes, stack = recogniser.sizes, recogniser.model.adapter.config.stack
    self.margin = round_up(reach + LONGEST_RUN, stack)
    self.length = round_up(max(sizes.window // sizes.step, 4 * self.margin), stack)
    self._frames: list[np.ndarray] = []
    self._start = 0  # encoder frame of the recording at which they start
    self._continues = False  # whether frames before them were adapted

  def append(self, window: Window) -> Iterator[Piece]:
    """Yield what is complete once a window has arrived."""
    if window.silent:
      yield from self._flush()
      return
    step = self._recogniser.sizes.step
    if not self._frames:
      self._start = (window.start + window.own[0]) // step
    self._frames.append(self._recogniser.encode(window))
    frames = np.concatenate(self._frames)
    while len(frames) >= self.length:
      stop = self.length - self.margin
      yield self._adapt(frames[: self.length], stop)
      frames = frames[stop - self.margin :]
      self._start += stop - self.margin
      self._continues = True
    self._frames = [frames]

  def finish(self, window: Window) -> Iterator[Piece]:
    """Yield the rest, with the last window."""
    if window.whole:
      yield self._recogniser.hear(window)
      return
    yield from self.append(window)
    yield from self._flush()

  def _flush(self) -> Iterator[Piece]:
    """Yield what is left of a stretch that ends."""
    if self._frames:
      yield self._adapt(np.concatenate(self._frames), self.length)
    self._frames, self._continues = [], False

  def _adapt(self, frames: Float[np.ndarray, 't d'], stop: int) -> Piece:
    own = (self.margin if self._continues else 0, stop)
    heard = self._recogniser.adapt(frames, own, self.length)
    start = self._start * self._recogniser.sizes.step
    return self._recogniser.to_piece(heard, start, self._continues)


@jax.jit
def _recognise(model: SpeechLLM, log_mel, frame_mask, own) -> Recognition:
  frames, mask = model.encoder(jnp.asarray(log_mel), jnp.asarray(frame_mask))
  return model.recognise(frames, mask & own)


@jax.jit
def _encode(model: SpeechLLM, log_mel, frame_mask):
  return model.encoder(jnp.asarray(log_mel), jnp.asarray(frame_mask))


@jax.jit
def _adapt(model: SpeechLLM, frames, frame_mask) -> Recognition:
  return model.recognise(jnp.asarray(frames), jnp.asarray(frame_mask))
