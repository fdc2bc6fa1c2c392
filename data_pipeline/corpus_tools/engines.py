# SPDX-License-Identifier: Apache-2.0
"""Text-to-speech engines in separate processes: flite, espeak-ng, piper and kokoro.

piper and espeak-ng are GPL, so they are run and never imported. They read the text from
their input: on a command line it could be mistaken for an option.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import soundfile

from acl_jax import assets
from acl_jax.runtime.files import replace_atomically
from data_pipeline.corpus_tools import kokoro
from data_pipeline.corpus_tools.spoken import spell_out

SECONDS_PER_LINE = 60.0


@dataclasses.dataclass(frozen=True)
class Voice:
  """A voice of an engine, written `engine:name`, or a blend `kokoro:name+name`."""

  engine: str
  name: str

  def __str__(self) -> str:
    return f'{self.engine}:{Path(self.name).stem}'

  @classmethod
  def parse(cls, spec: str) -> 'Voice':
    """Return the voice of `engine:name`.

    ValueError if the engine or a voice of kokoro is unknown; FileNotFoundError if the
    engine is not installed. May download kokoro.
    """
    engine, _, name = spec.partition(':')
    if not name or engine not in ENGINES:
      known = ', '.join(f'{engine}:NAME' for engine in ENGINES)
      raise ValueError(f'unknown voice {spec!r}; use one of {known}')
    if engine == 'kokoro':
      kokoro.check_voice(name, assets.fetch('kokoro'))
      return cls(engine, name)
    if engine != 'piper' and shutil.which(engine) is None:
      raise FileNotFoundError(
        f'voice {spec!r} requires the program {engine}; install it'
      )
    if engine == 'piper' and find_spec('piper') is None:
      raise FileNotFoundError(
        f"voice {spec!r} requires piper; pip install 'acl_jax[demo]'"
      )
    if engine == 'piper' and name.startswith(assets.PREFIX):
      name = str(assets.resolve(name))
    if engine == 'piper' and not Path(name).is_file():
      raise FileNotFoundError(f'voice {spec!r}: voice file {name} does not exist')
    return cls(engine, name)


@dataclasses.dataclass(frozen=True)
class SpokenLine:
  """A line of text and how it is spoken."""

  id: str
  text: str
  voice: Voice
  rate: float  # relative to the voice's own, as is the pitch
  pitch: float
  lang: str = 'en'

  @property
  def pronounced(self) -> str:
    """The text with numbers as words, where English engines need it."""
    return spell_out(self.text) if self.lang == 'en' else self.text


def speak(lines: Sequence[SpokenLine], folder: Path) -> None:
  """Speak lines of one engine, each to `folder/ID.flac`; ChildProcessError if it fails.

  kokoro takes any number of lines at once, piper those of one voice, with the mean of
  their rates.
  """
  if lines[0].voice.engine == 'piper':
    return _speak_with_piper(lines, folder)
  if lines[0].voice.engine == 'kokoro':
    return _speak_with_kokoro(lines, folder)
  for line in lines:
    wav = folder / f'.{line.id}.wav'
    command = COMMANDS[line.voice.engine](line, wav)
    _run(command, line.pronounced, SECONDS_PER_LINE, f' on {line.text!r}')
    _write_flac(wav, line, folder)
    wav.unlink()


def _speak_with_piper(lines: Sequence[SpokenLine], folder: Path) -> None:
  """Speak many lines in one process; piper names its files by their creation time."""
  scratch = folder / f'.piper-{lines[0].id}'
  shutil.rmtree(scratch, ignore_errors=True)
  scratch.mkdir()
  (scratch / 'lines').write_text(
    ''.join(' '.join(line.pronounced.split()) + '\n' for line in lines),
    encoding='utf-8',
  )
  command = [sys.executable, '-m', 'piper', '-m', lines[0].voice.name]
  command += ['-d', str(scratch), '-i', str(scratch / 'lines')]
  command += ['--length-scale', f'{len(lines) / sum(line.rate for line in lines):.3f}']
  _run(command, '', SECONDS_PER_LINE * len(lines))
  wavs = sorted(scratch.glob('*.wav'), key=lambda path: int(path.stem))
  if len(wavs) != len(lines):
    raise ChildProcessError(f'piper wrote {len(wavs)} files for {len(lines)} lines')
  for line, wav in zip(lines, wavs, strict=True):
    _write_flac(wav, line, folder)
  shutil.rmtree(scratch)


def _speak_with_kokoro(lines: Sequence[SpokenLine], folder: Path) -> None:
  """Speak many lines in one process, which keeps what it has finished if it fails."""
  jobs = (
    {
      'text': line.text,
      'voice': line.voice.name,
      'rate': line.rate,
      'path': str((folder / f'{line.id}.flac').absolute()),
    }
    for line in lines
  )
  command = [sys.executable, '-m', 'data_pipeline.kokoro']
  _run(command, '\n'.join(map(json.dumps, jobs)), SECONDS_PER_LINE * len(lines))


def _flite_command(line: SpokenLine, wav: Path) -> list[str]:
  stretch, shift = f'duration_stretch={1 / line.rate:.3f}', f'f0_shift={line.pitch:.3f}'
  command = ['flite', '--setf', stretch, '--setf', shift, '-voice', line.voice.name]
  return [*command, '-o', str(wav)]


def _espeak_command(line: SpokenLine, wav: Path) -> list[str]:
  rate, pitch = f'{165 * line.rate:.0f}', f'{50 * line.pitch:.0f}'
  command = ['espeak-ng', '-v', line.voice.name, '-s', rate, '-p', pitch]
  return [*command, '-w', str(wav), '--stdin']


COMMANDS = {'flite': _flite_command, 'espeak-ng': _espeak_command}
ENGINES = (*COMMANDS, 'piper', 'kokoro')


def _run(command: Sequence[str], text: str, seconds: float, subject: str = '') -> None:
  """Run a command with `text` as its input; ChildProcessError if it fails.

  subject: what it is run on, for the error.
  """
  name = command[2].split('.')[-1] if command[1] == '-m' else command[0]
  try:
    process = subprocess.run(
      command, input=text.encode(), capture_output=True, timeout=seconds, check=False
    )
  except subprocess.TimeoutExpired:
    raise ChildProcessError(f'{name} took more than {seconds} s{subject}') from None
  if process.returncode:
    stderr = process.stderr.decode(errors='replace')
    reason = ' '.join(stderr.strip().splitlines()[-1:])
    raise ChildProcessError(f'{name} failed{subject}: {reason}')


def _write_flac(wav: Path, line: SpokenLine, folder: Path) -> None:
  """Write an engine's output as FLAC; ChildProcessError if it has no samples."""
  try:
    samples, sample_rate = soundfile.read(wav, dtype='int16')
  except soundfile.LibsndfileError:
    samples, sample_rate = [], 0
  if len(samples) == 0:
    raise ChildProcessError(f'{line.voice} produced no audio for {line.text!r}')
  with replace_atomically(folder / f'{line.id}.flac') as temporary:
    soundfile.write(temporary, samples, sample_rate, format='FLAC')
