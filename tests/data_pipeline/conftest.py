# SPDX-License-Identifier: Apache-2.0
"""Generated audio files, a small corpus of them, and programs run in this process."""

import json
import logging
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from absl import flags

from data_pipeline.prepare import Settings, prepare

ROOT = Path(__file__).parents[2]


def tone(seconds=0.3, rate=16_000, channels=1, pitch=440.0):
  """A tone that gets louder: float32 [samples, channels], the last channel loudest."""
  time = np.arange(round(seconds * rate)) / rate
  wave = np.sin(2 * np.pi * pitch * time) * np.linspace(0.1, 0.5, len(time))
  return (wave[:, None] * np.linspace(0.5, 1, channels)).astype(np.float32)


def write_tone(path, subtype=None, rate=16_000, format=None, **options):
  """Write an audio file; returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, tone(rate=rate, **options), rate, subtype, format=format)
  return path


def write_corpus(folder):
  """Write seven utterances with all optional keys; returns their manifest."""
  lines = []
  for i in range(7):
    name = f'audio/{i}.flac'
    write_tone(folder / name, seconds=0.1 + 0.05 * i, pitch=200.0 + 50 * i)
    entry = {'audio_filepath': name, 'text': f'Grüße {i}', 'id': f'u{i}', 'duration': 1}
    lines.append(entry | {'speaker': 'anna', 'lang': 'de', 'response': f'Antwort {i}'})
  manifest = folder / 'manifest.jsonl'
  manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return manifest


@pytest.fixture
def write_audio():
  """write_audio(path, subtype=None, **tone) writes an audio file, returns its path."""
  return write_tone


@pytest.fixture
def corpus(tmp_path):
  """The manifest of a corpus of seven utterances."""
  return write_corpus(tmp_path / 'corpus')


@pytest.fixture(scope='session')
def shared_prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('shared')
  manifest = write_corpus(folder / 'corpus')
  prepare('manifest', manifest, folder / 'prepared', settings=Settings(shard_size=3))
  return folder / 'prepared'


@pytest.fixture
def prepared(shared_prepared, tmp_path):
  """The prepared corpus, three utterances per shard; a copy for this test."""
  return shutil.copytree(shared_prepared, tmp_path / 'prepared')


class Finished(NamedTuple):
  """What a program that has ended leaves: its exit code and output."""

  returncode: int
  stdout: str
  stderr: str


@pytest.fixture
def run_program(monkeypatch, capsys):
  """run_program('data_pipeline.prepare', *arguments) runs a program in this process.

  Much faster than an interpreter of its own, which one test per program starts.
  """

  def run(module, *arguments):
    path = str(ROOT / module.replace('.', '/')) + '.py'
    monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
    root_handlers, root_level = logging.root.handlers[:], logging.root.level
    capsys.readouterr()
    try:
      with pytest.raises(SystemExit) as exit:
        runpy.run_path(path, run_name='__main__')
    finally:
      # absl defines flags and a log handler for the whole process.
      for flag in flags.FLAGS.get_flags_for_module(path):
        delattr(flags.FLAGS, flag.name)
      logging.root.handlers[:], logging.root.level = root_handlers, root_level
    return Finished(exit.value.code or 0, *capsys.readouterr())

  return run


@pytest.fixture
def start_program():
  """start_program('data_pipeline.prepare', *arguments) runs a program by itself."""

  def run(module, *arguments):
    command = [sys.executable, '-m', module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return Finished(done.returncode, done.stdout, done.stderr)

  return run
