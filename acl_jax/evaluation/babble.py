# SPDX-License-Identifier: Apache-2.0
"""Utterances in a babble of others of the same manifest, at a fixed SNR."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio
from data_pipeline.audio import AudioError
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.noise import add_babble

TALKERS = 5  # utterances in a babble


@dataclasses.dataclass(frozen=True)
class NoisyUtterance(Utterance):
  """An utterance whose audio has a babble in it, the same at every reading.

  candidates: Utterances for the babble, of which the first `TALKERS` that can be read
  are used. snr: Mean power of the utterance above that of the babble, in dB.
  """

  candidates: tuple[Utterance, ...] = ()
  snr: float = 0.0

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """Read the noisy audio; AudioError if it, or every candidate, cannot be used."""
    waveform, others = super().read(limits), []
    for candidate in self.candidates:
      try:
        others.append(candidate.read(audio.Limits()))
      except AudioError:
        continue  # reported where it is an example itself
      if len(others) == TALKERS:
        break
    if not others:
      raise AudioError(self.id, 'babble', 'has no other utterance that can be read')
    return add_babble(waveform, others, self.snr, _generator(self.id, 1))


def with_babble(utterances: Sequence[Utterance], snr: float) -> list[Utterance]:
  """Return the utterances in babble, a function of their ids and audio alone.

  ValueError if there are fewer than 2.
  """
  if len(utterances) < 2:
    raise ValueError(
      f'--babble_snr={snr:g} needs at least 2 usable utterances in the manifest;'
      f' there are {len(utterances)}'
    )
  by_id = sorted(utterances, key=lambda utterance: utterance.id)
  noisy: list[Utterance] = []
  for utterance in utterances:
    count = min(2 * TALKERS + 1, len(by_id))
    chosen = _generator(utterance.id, 0).choice(len(by_id), count, replace=False)
    candidates = tuple(by_id[i] for i in chosen if by_id[i].id != utterance.id)
    values = {f.name: getattr(utterance, f.name) for f in dataclasses.fields(Utterance)}
    noisy.append(NoisyUtterance(**values, candidates=candidates, snr=snr))
  return noisy


def describe_noise(babble_snr: float | None) -> dict[str, Any] | None:
  """Return `noise` of the report; None without noise."""
  if babble_snr is None:
    return None
  return {'kind': 'babble', 'snr': babble_snr, 'talkers': TALKERS}


def _generator(id: str, purpose: int) -> np.random.Generator:
  digest = hashlib.sha256(id.encode()).digest()
  return np.random.default_rng([int.from_bytes(digest[:8], 'big'), purpose])
