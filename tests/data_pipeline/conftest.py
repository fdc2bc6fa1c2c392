# SPDX-License-Identifier: Apache-2.0
"""Recordings, made on the spot."""

import json

import numpy as np
import pytest
import soundfile


def tone(seconds=0.3, rate=16_000, channels=1, pitch=440.0):
  """A tone that swells: float32 [samples, channels], louder channels last."""
  time = np.arange(round(seconds * rate)) / rate
  wave = np.sin(2 * np.pi * pitch * time) * np.linspace(0.1, 0.5, len(time))
  return (wave[:, None] * np.linspace(0.5, 1, channels)).astype(np.float32)


@pytest.fixture
def record():
  """record(path, subtype=None, **tone): writes a sound file, returns its path."""

  def write(path, subtype=None, rate=16_000, format=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate, **options), rate, subtype, format=format)
    return path

  return write


@pytest.fixture
def corpus(tmp_path, record):
  """A manifest of seven utterances with all the optional keys, and its folder."""
  folder = tmp_path / 'corpus'
  lines = []
  for i in range(7):
    name = f'audio/{i}.flac'
    record(folder / name, seconds=0.1 + 0.05 * i, pitch=200.0 + 50 * i)
    entry = {'audio_filepath': name, 'text': f'Grüße {i}', 'id': f'u{i}', 'duration': 1}
    lines.append(entry | {'speaker': 'anna', 'lang': 'de', 'response': f'Antwort {i}'})
  manifest = folder / 'manifest.jsonl'
  manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return manifest
