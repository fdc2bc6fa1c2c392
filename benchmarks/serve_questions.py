# SPDX-License-Identifier: Apache-2.0
"""Spoken questions that no server has heard before, from the shipped recordings.

Every question is a recording with its own noise, some 80 dB below full scale: nobody
hears it, but a cache of audio does not know the recording again.
"""

import base64
import functools
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Int16

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from data_pipeline import audio

RECORDINGS = Path(__file__).parent.parent / 'data_pipeline' / 'recordings'
RATE = audio.SAMPLE_RATE
SECONDS = 3.5, 4.5  # of a question
NOISE = 3.0  # standard deviation, in steps of 16-bit samples

Samples = Int16[np.ndarray, ' n']


class Questions:
  """An endless source of questions; a seed determines all of them."""

  def __init__(self, seed: int):
    self._rng = np.random.default_rng(seed)
    self._count = 0

  def __next__(self) -> Samples:
    recordings = read_recordings()
    self._count += 1
    return self._with_noise(recordings[self._count % len(recordings)])

  def __iter__(self) -> Iterator[Samples]:
    return self

  def take(self, count: int) -> list[Samples]:
    """Return the next questions."""
    return [next(self) for _ in range(count)]

  def utterance(self, seconds: float) -> Samples:
    """Return questions one after another, cut to a length."""
    length = round(seconds * RATE)
    count = 1 + int(seconds / SECONDS[0])
    return np.concatenate(self.take(count))[:length]

  def _with_noise(self, samples: np.ndarray) -> Samples:
    noise = self._rng.normal(0, NOISE, samples.shape)
    return np.clip(np.rint(samples * 32_767 + noise), -32_768, 32_767).astype('<i2')


@functools.cache
def read_recordings() -> tuple[np.ndarray, ...]:
  """Return all recordings of the length of a question, at 16 kHz."""
  lines = map(json.loads, (RECORDINGS / 'manifest.jsonl').read_text().splitlines())
  return tuple(
    audio.read(RECORDINGS / line['audio_filepath'])
    for line in lines
    if SECONDS[0] <= line['duration'] <= SECONDS[1]
  )


def as_part(samples: Samples) -> dict[str, Any]:
  """Return a recording as a part of a message."""
  file = io.BytesIO()
  soundfile.write(file, samples, RATE, format='WAV', subtype='PCM_16')
  data = base64.b64encode(file.getvalue()).decode()
  return {'type': 'input_audio', 'input_audio': {'data': data, 'format': 'wav'}}


def save(path: Path, questions: list[Samples]) -> None:
  """Write questions for another process."""
  np.savez(path, *questions)


def load(path: Path) -> list[np.ndarray]:
  """Return the questions of a file in -1..1, as the server decodes them."""
  with np.load(path) as arrays:
    return [arrays[name].astype(np.float32) / 32_768 for name in arrays.files]
