# SPDX-License-Identifier: Apache-2.0
"""From windows of a recording to embeddings and tokens, by the jitted model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from acl_jax.batches.padded import PaddedFrames, pad_to_step
from acl_jax.hearing.windows import Window, Windows, WindowSizes
from acl_jax.models.protocols import Adapter
from acl_jax.models.recognition import Recognition, Tokens
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.rounding import round_up
from data_pipeline.features import HOP, SAMPLE_RATE, Frontend

FRAME_STEP = 200  # log-mel frames, 2 s: windows are padded to a multiple
# A decoder is trained on single utterances, which seldom last longer.
DECODER_WINDOW, WINDOW = 1_500, 3_000  # log-mel frames, 15 s and 30 s


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

  def hear(self, window: Window) -> Piece:
    """Encode and adapt the own frames of a window."""
    return self.hear_batch([window], 1)[0]

  def hear_batch(self, windows: Sequence[Window], rows: int) -> list[Piece]:
    """Encode and adapt the own frames of windows, in a batch of at least as many rows.

    They are padded to the longest; further rows are empty.
    """
    mels = self._log_mels(windows, rows)
    own = self._own_frames(windows, mels)
    heard = jax.device_get(_recognise(self.model, *mels, own))
    pieces = []
    for row, window in enumerate(windows):
      piece = self._to_piece(heard, row, window.start)
      # The last token may have frames of the silence that follows.
      end = (window.start * HOP + len(window.samples)) / SAMPLE_RATE
      pieces.append(piece._replace(spans=np.minimum(piece.spans, end)))
    return pieces

  def padded_length(self, window: Window) -> int:
    """Return the log-mel frames of a window, silence and padding included."""
    frames = len(window.samples) // HOP + 1 + self.silence
    return min(round_up(frames, FRAME_STEP), self.model.encoder.config.max_frames)

  def cut(self, samples: Float[np.ndarray, ' samples']) -> list[Window] | None:
    """Cut a recording into windows that `hear` hears in any order, without silent ones.

    None if the frames of its windows are joined before they are adapted.
    """
    windows = Windows(self.sizes)
    parts = [*windows.append(samples), windows.finish()]
    if self.model.adapter.reach is not None:
      return parts if parts[0].whole else None
    return [window.alone() for window in parts if not window.silent]

  def encode(self, window: Window) -> Float[np.ndarray, 't d']:
    """Return the encoder frames of a window's own frames."""
    mels = self._log_mels([window], 1)
    frames, mask = jax.device_get(_encode(self.model, *mels))
    return frames[0][mask[0] & self._own_frames([window], mels)[0]]

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
    return self._to_piece(heard, 0, start)._replace(joins=joins)

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

  def _log_mels(self, windows: Sequence[Window], rows: int) -> PaddedFrames:
    log_mels = [self.frontend.log_mel(window.samples) for window in windows]
    return pad_to_step(log_mels, rows, self.model.encoder.config.max_frames, FRAME_STEP)

  def _own_frames(
    self, windows: Sequence[Window], mels: PaddedFrames
  ) -> Bool[np.ndarray, 'b u']:
    rows, length, _ = mels.log_mel.shape
    own = np.zeros((rows, -(-length // self.sizes.step)), bool)
    for row, window in enumerate(windows):
      first, stop = (
        None if frame is None else frame // self.sizes.step for frame in window.own
      )
      own[row, first:stop] = True
    return own

  def _to_piece(self, heard: Recognition, row: int, start: int) -> Piece:
    embeddings = heard.embeddings[row][heard.mask[row]]
    if heard.tokens is None:
      return Piece(embeddings, None, np.zeros((0, 2)))
    filled = heard.tokens.ids[row] >= 0
    tokens = jax.tree.map(lambda x: x[row][filled], heard.tokens)
    if tokens.spans is None:
      return Piece(embeddings, tokens, np.full((int(filled.sum()), 2), np.nan))
    seconds = (start + tokens.spans * self.sizes.step) * (HOP / SAMPLE_RATE)
    return Piece(embeddings, tokens, seconds)


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
