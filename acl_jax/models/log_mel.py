# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms on the device, a batch of utterances at a time.

The definitions are those of `data_pipeline/features.py`, which also has the filters.
Models know nothing of data, so the numbers are here again; a test compares them.
A window's treatment is linear, so it and the DFT are one matrix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples that Parakeet and Kaldi transform, zeros beside the window
PREEMPHASIS = 0.97
PARAKEET_FLOOR = 2.0**-24  # added to a power before its logarithm
PARAKEET_EPS = 1e-5  # added to a standard deviation
KALDI_FLOOR = float(np.finfo(np.float32).eps)
HIGHEST = jax.lax.Precision.HIGHEST  # a TPU would round to bfloat16

Audio = Float[Array, 'b samples']
Lengths = Int[Array, ' b']  # samples of each row that are signal; the rest is padding
Filters = Float[Array | np.ndarray, '_ m']  # a row for each bin of the DFT
LogMel = tuple[Float[Array, 'b t m'], Bool[Array, 'b t']]  # zero where not valid


def whisper_log_mel(audio: Audio, lengths: Lengths, filters: Filters) -> LogMel:
  """Whisper's; each utterance is reflected and clamped by itself.

  Rows shorter than a window have no valid frame, in this and in the others.
  """
  _check(audio, filters, WINDOW)
  count = audio.shape[1] // HOP
  valid = _valid(lengths, count, lengths // HOP)
  start = audio[:, WINDOW // 2 : 0 : -1]
  padded = jnp.concatenate([start, _reflect_ends(audio, lengths)], axis=1)
  window = np.hanning(WINDOW + 1)[:-1]  # periodic
  power = _power(_frames(padded, count), np.diag(window) @ _dft(WINDOW))
  log_mel = jnp.log10(jnp.maximum(_mel(power, filters), 1e-10))
  loudest = jnp.max(
    log_mel, axis=(1, 2), keepdims=True, where=valid[..., None], initial=-10
  )
  return _only((jnp.maximum(log_mel, loudest - 8.0) + 4.0) / 4.0, valid)


def parakeet_log_mel(audio: Audio, lengths: Lengths, filters: Filters) -> LogMel:
  """NeMo's; each bin is standardised over the frames of its utterance."""
  _check(audio, filters, FFT)
  count = audio.shape[1] // HOP
  valid = _valid(lengths, count, lengths // HOP)
  # Not in the matrix: the sample after the end would get a share of the last.
  sharp = audio.at[:, 1:].add(-PREEMPHASIS * audio[:, :-1])
  signal = jnp.arange(audio.shape[1])[None] < lengths[:, None]
  padded = jnp.pad(jnp.where(signal, sharp, 0), ((0, 0), (WINDOW // 2, 0)))
  # A window's place among the zeros is a phase, which the power has not.
  power = _power(_frames(padded, count), np.diag(np.hanning(WINDOW)) @ _dft(FFT))
  log_mel = jnp.log(_mel(power, filters) + PARAKEET_FLOOR)
  frames = jnp.maximum(valid.sum(axis=1), 2)[:, None, None]
  where = valid[..., None]
  mean = jnp.sum(log_mel, axis=1, keepdims=True, where=where) / frames
  centred = log_mel - mean
  square = jnp.sum(centred**2, axis=1, keepdims=True, where=where)
  return _only(centred / (jnp.sqrt(square / (frames - 1)) + PARAKEET_EPS), valid)


def kaldi_log_mel(audio: Audio, lengths: Lengths, filters: Filters) -> LogMel:
  """Kaldi's filter banks without dither."""
  _check(audio, filters, FFT)
  count = 1 + (audio.shape[1] - WINDOW) // HOP
  valid = _valid(lengths, count, 1 + (lengths - WINDOW) // HOP)
  centre = np.eye(WINDOW) - 1 / WINDOW
  sharpen = np.eye(WINDOW) - PREEMPHASIS * np.eye(WINDOW, k=1)
  sharpen[0, 0] -= PREEMPHASIS  # the sample before a frame is its first
  window = np.diag(np.hanning(WINDOW) ** 0.85)  # Povey's
  power = _power(_frames(audio, count), centre @ sharpen @ window @ _dft(FFT))
  return _only(jnp.log(jnp.maximum(_mel(power, filters), KALDI_FLOOR)), valid)


LOG_MEL: dict[str, Callable[[Audio, Lengths, Filters], LogMel]] = {
  'whisper': whisper_log_mel,
  'parakeet': parakeet_log_mel,
  'kaldi': kaldi_log_mel,
}


def _check(audio: Audio, filters: Filters, fft: int) -> None:
  if audio.shape[1] < WINDOW:
    raise ValueError(f'audio has {audio.shape[1]} samples; one frame needs {WINDOW}')
  if len(filters) != fft // 2 + 1:
    raise ValueError(f'filters have {len(filters)} bins, not {fft // 2 + 1}')


def _valid(lengths: Lengths, count: int, counts: Lengths) -> Bool[Array, 'b t']:
  there = jnp.arange(count)[None] < counts[:, None]
  return there & (lengths >= WINDOW)[:, None]


def _only(log_mel: Float[Array, 'b t m'], valid: Bool[Array, 'b t']) -> LogMel:
  return jnp.where(valid[..., None], log_mel, 0), valid


def _reflect_ends(audio: Audio, lengths: Lengths) -> Float[Array, 'b longer']:
  """Writes after each end as much of its mirror image as the last frame may hear."""
  size = WINDOW // 2 - HOP

  def reflect(row, length):
    mirrored = jax.lax.dynamic_slice(row, [length - 1 - size], [size])[::-1]
    return jax.lax.dynamic_update_slice(row, mirrored, [length])

  return jax.vmap(reflect)(jnp.pad(audio, ((0, 0), (0, size))), lengths)


def _frames(audio: Audio, count: int) -> Float[Array, 'b t w']:
  """Windows from sample 0 on, as slices of whole hops; zeros beyond the end."""
  hops = count + 2  # the last window ends in the second hop after its first
  audio = jnp.pad(audio, ((0, 0), (0, max(0, hops * HOP - audio.shape[1]))))
  pieces = audio[:, : hops * HOP].reshape(len(audio), hops, HOP)
  parts = pieces[:, :-2], pieces[:, 1:-1], pieces[:, 2:, : WINDOW - 2 * HOP]
  return jnp.concatenate(parts, axis=2)


def _dft(fft: int) -> Float[np.ndarray, 'w f2']:
  """Cosines, then sines, of all bins but Nyquist's, to which no filter listens."""
  angle = 2 * np.pi / fft * np.outer(np.arange(WINDOW), np.arange(fft // 2))
  return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _power(
  frames: Float[Array, 'b t w'], matrix: Float[np.ndarray, 'w f2']
) -> Float[Array, 'b t f']:
  folded = jnp.asarray(matrix, jnp.float32)  # made in float64
  cosine, sine = jnp.split(jnp.matmul(frames, folded, precision=HIGHEST), 2, axis=-1)
  return cosine**2 + sine**2


def _mel(power: Float[Array, 'b t f'], filters: Filters) -> Float[Array, 'b t m']:
  return jnp.matmul(power, filters[:-1], precision=HIGHEST)
