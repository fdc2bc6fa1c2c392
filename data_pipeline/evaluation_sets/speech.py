# SPDX-License-Identifier: Apache-2.0
"""Texts to audio files, long ones sentence by sentence with pauses between them."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from acl_jax.runtime.files import replace_atomically
from data_pipeline.corpus_tools.engines import SpokenLine
from data_pipeline.corpus_tools.speech import speak_missing
from data_pipeline.evaluation_sets.voices import Voices, pick_voice

MAX_CHARACTERS = 300  # that are spoken at once
PAUSE_SECONDS = 0.4  # between sentences of a longer text
_SENTENCE_END = re.compile(r'(?<=[.!?]) (?=[A-Z])')


def split_sentences(text: str) -> list[str]:
  """Return a text in parts to be spoken at once: its sentences if it is long."""
  return [text] if len(text) <= MAX_CHARACTERS else _SENTENCE_END.split(text)


class Speaker:
  """Collects what is to be spoken, synthesizes it, and describes the audio.

  A file is named by its id and by a digest of text and voice, so audio that exists is
  kept, and that of an earlier text or voice is not used.
  """

  def __init__(self, voices: Voices, output: Path):
    self._voices = voices
    self._output = output
    self._folder = output / 'audio'
    self._parts: dict[str, list[SpokenLine]] = {}  # of each audio file

  @property
  def languages(self) -> frozenset[str]:
    """The languages that have a voice."""
    return frozenset(self._voices)

  def plan(self, id: str, text: str, speaker_id: str, lang: str = 'en') -> str:
    """Add a text to what is spoken; returns the stem of its audio file.

    speaker_id: texts with the same one are spoken by the same voice.
    """
    voice = pick_voice(self._voices, lang, speaker_id)
    digest = hashlib.sha256(f'{voice}\n{lang}\n{text}'.encode()).hexdigest()[:8]
    name = f'{id}-{digest}'
    sentences = split_sentences(text)
    names = (
      [name]
      if len(sentences) == 1
      else [f'{name}.{number:02d}' for number in range(len(sentences))]
    )
    self._parts[name] = [
      SpokenLine(part, sentence, voice, 1.0, 1.0, lang)
      for part, sentence in zip(names, sentences, strict=True)
    ]
    return name

  def speak(self) -> None:
    """Synthesize what has no audio yet; ChildProcessError if an engine fails."""
    self._folder.mkdir(parents=True, exist_ok=True)
    missing = {
      name: parts
      for name, parts in self._parts.items()
      if not self._path(name).exists()
    }
    speak_missing([part for parts in missing.values() for part in parts], self._folder)
    for name, parts in missing.items():
      if len(parts) > 1:
        paths = [self._path(part.id) for part in parts]
        _join(paths, self._path(name))
        for path in paths:
          path.unlink()

  def describe(self, name: str) -> dict[str, Any]:
    """Return the keys of a manifest for an audio file that was synthesized."""
    first = self._parts[name][0]
    path = self._path(name)
    return {
      'audio_filepath': path.relative_to(self._output).as_posix(),
      'duration': round(soundfile.info(path).duration, 3),
      'speaker': str(first.voice),
      'lang': first.lang,
    }

  def _path(self, name: str) -> Path:
    return self._folder / f'{name}.flac'


def _join(parts: Sequence[Path], output: Path) -> None:
  """Write audio files of one voice into one, with pauses."""
  pieces: list[np.ndarray] = []
  rate = 0
  for path in parts:
    samples, rate = soundfile.read(path, dtype='int16')
    pieces += [samples, np.zeros(int(PAUSE_SECONDS * rate), np.int16)]
  with replace_atomically(output) as temporary:
    soundfile.write(temporary, np.concatenate(pieces[:-1]), rate, format='FLAC')
