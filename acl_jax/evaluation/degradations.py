# SPDX-License-Identifier: Apache-2.0
"""What evaluation does to audio by name: noise, a room, a telephone, a codec, speed.

A degraded utterance is a function of its id, its audio, the name of the degradation
and the other utterances, so every arm and every run hears the same.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import soxr
from jaxtyping import Float

from acl_jax.evaluation.babble import TALKERS
from data_pipeline import audio
from data_pipeline.audio import SAMPLE_RATE, AudioError
from data_pipeline.channels import clip, decode, encode, telephone_line
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.noise import babble, music, pink_noise, scale_noise
from data_pipeline.reverberation import random_response, reverberate

SNRS = (20, 10, 5, 0)  # dB, of the speech above the noise
SPEED = 0.15  # relative change of tempo and pitch
MP3_LEVEL = 0.95  # libsndfile's compression level of 16 kbit/s at 16 kHz

Waveform = np.ndarray  # 16 kHz mono float32
# Returns up to a number of waveforms of other utterances.
ReadOthers = Callable[[int], Sequence[Waveform]]
Degradation = Callable[[Waveform, np.random.Generator, ReadOthers], Waveform]
MakeNoise = Callable[[int, np.random.Generator, ReadOthers], Waveform]


def _add_noise(
  waveform: Float[np.ndarray, ' samples'],
  rng: np.random.Generator,
  others: ReadOthers,
  make_noise: MakeNoise,
  snr: float,
) -> Float[np.ndarray, ' samples']:
  """Add noise; a sum beyond 1 becomes quieter as a whole, so that the ratio stays."""
  noise = make_noise(len(waveform), rng, others)
  mixed = waveform + scale_noise(waveform, noise, snr)
  return mixed / max(np.float32(1), np.abs(mixed).max(initial=0))


def _babble(
  length: int, rng: np.random.Generator, others: ReadOthers
) -> Float[np.ndarray, ' length']:
  talkers = others(TALKERS)
  if not talkers:
    raise ValueError('babble needs at least 1 other utterance that can be read')
  return babble(length, talkers, rng)


def _change_speed(
  waveform: Float[np.ndarray, ' samples'], factor: float
) -> Float[np.ndarray, ' changed']:
  changed = soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE)
  return changed.astype(np.float32, copy=False)


NOISES: dict[str, MakeNoise] = {
  'pink': lambda length, rng, others: pink_noise(length, rng),
  'music': lambda length, rng, others: music(length, rng),
  'babble': _babble,
}

DEGRADATIONS: dict[str, Degradation] = {
  f'{name}_{snr}db': functools.partial(_add_noise, make_noise=noise, snr=float(snr))
  for name, noise in NOISES.items()
  for snr in SNRS
} | {
  'room': lambda waveform, rng, others: reverberate(waveform, random_response(rng)),
  'telephone': lambda waveform, rng, others: telephone_line(waveform, mu_law=True),
  'mp3_16kbit': lambda waveform, rng, others: decode(
    encode(waveform, 'mp3', MP3_LEVEL), len(waveform)
  ),
  'slow': lambda waveform, rng, others: _change_speed(waveform, 1 - SPEED),
  'fast': lambda waveform, rng, others: _change_speed(waveform, 1 + SPEED),
  'clipping': lambda waveform, rng, others: clip(waveform, rng),
}


def degrade(
  waveform: Float[np.ndarray, ' samples'], id: str, name: str, others: ReadOthers
) -> Float[np.ndarray, ' changed']:
  """Return the waveform of utterance `id` degraded; '' returns it as it is.

  ValueError if `name` is not in `DEGRADATIONS`, or a babble has no other utterance.

  others: called with the number of utterances of a babble; see `others_of`.
  """
  if not name:
    return waveform
  if name not in DEGRADATIONS:
    known = ', '.join(DEGRADATIONS)
    raise ValueError(f'degradation is {name!r}; known: {known}')
  return DEGRADATIONS[name](waveform, _generator(id, name), others)


def others_of(utterance: Utterance, utterances: Sequence[Utterance]) -> ReadOthers:
  """Return a reader of other utterances, chosen by the ids alone.

  Utterances that cannot be read are left out; each is reported where it is a case.
  """
  by_id = sorted(utterances, key=lambda other: other.id)

  def read(count: int) -> list[Waveform]:
    order = _generator(utterance.id, 'others').permutation(len(by_id))
    waveforms: list[Waveform] = []
    for index in order:
      if len(waveforms) == count:
        break
      if by_id[index].id == utterance.id:
        continue
      try:
        waveforms.append(by_id[index].read(audio.Limits()))
      except AudioError:
        continue
    return waveforms

  return read


def _generator(id: str, name: str) -> np.random.Generator:
  digest = hashlib.sha256(f'{name}\0{id}'.encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:8], 'big'))
