# SPDX-License-Identifier: Apache-2.0
"""Text-to-speech engines: flite, espeak-ng and piper, each run as a separate program.

piper and espeak-ng are GPL: they are started and never imported. The text goes to their
input, never on a command line, where it could pass for an option.
"""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import soundfile

from acl_jax.runtime.files import replace_atomically

SECONDS_PER_LINE = 60.0


@dataclasses.dataclass(frozen=True)
class Voice:
  """An engine and one of its voices, written `engine:name`."""

  engine: str
  name: str

  def __str__(self) -> str:
    return f'{self.engine}:{Path(self.name).stem}'

  @classmethod
  def parse(cls, written: str) -> 'Voice':
    """The voice, if it can speak here; ValueError or FileNotFoundError if not."""
    engine, _, name = written.partition(':')
    if not name or engine not in ENGINES:
      known = ', '.join(f'{engine}:NAME' for engine in ENGINES)
      raise ValueError(f'voice {written!r} is unknown; write one of {known}')
    if engine != 'piper' and shutil.which(engine) is None:
      raise FileNotFoundError(
        f'voice {written!r} needs the program {engine}; install it'
      )
    if engine == 'piper' and find_spec('piper') is None:
      raise FileNotFoundError(
        f"voice {written!r} needs piper; pip install 'acl_jax[demo]'"
      )
    if engine == 'piper' and not Path(name).is_file():
      raise FileNotFoundError(f'voice {written!r}: there is no voice file {name}')
    return cls(engine, name)


@dataclasses.dataclass(frozen=True)
class Line:
  """One line to say, and how."""

  id: str
  text: str
  voice: Voice
  rate: float  # 1 is the voice's own
  pitch: float


def speak(lines: Sequence[Line], folder: Path) -> None:
  """Says lines of one voice, each to `folder/ID.flac`, or raises ChildProcessError."""
  if lines[0].voice.engine == 'piper':
    return _speak_with_piper(lines, folder)
  for line in lines:
    wav = folder / f'.{line.id}.wav'
    _run(ENGINES[line.voice.engine](line, wav), line.text, SECONDS_PER_LINE)
    _to_flac(wav, line, folder)
    wav.unlink()


def _speak_with_piper(lines: Sequence[Line], folder: Path) -> None:
  """Many lines in one process; piper names its files by the time they were made."""
  scratch = folder / f'.piper-{lines[0].id}'
  shutil.rmtree(scratch, ignore_errors=True)
  scratch.mkdir()
  (scratch / 'lines').write_text(
    ''.join(' '.join(line.text.split()) + '\n' for line in lines), encoding='utf-8'
  )
  command = [sys.executable, '-m', 'piper', '-m', lines[0].voice.name]
  command += ['-d', str(scratch), '-i', str(scratch / 'lines')]
  command += ['--length-scale', f'{len(lines) / sum(line.rate for line in lines):.3f}']
  _run(command, '', SECONDS_PER_LINE * len(lines))
  made = sorted(scratch.glob('*.wav'), key=lambda path: int(path.stem))
  if len(made) != len(lines):
    raise ChildProcessError(f'piper made {len(made)} files of {len(lines)} lines')
  for line, wav in zip(lines, made, strict=True):
    _to_flac(wav, line, folder)
  shutil.rmtree(scratch)


def _flite(line: Line, wav: Path) -> list[str]:
  stretch, shift = f'duration_stretch={1 / line.rate:.3f}', f'f0_shift={line.pitch:.3f}'
  command = ['flite', '--setf', stretch, '--setf', shift, '-voice', line.voice.name]
  return [*command, '-o', str(wav)]


def _espeak(line: Line, wav: Path) -> list[str]:
  rate, pitch = f'{165 * line.rate:.0f}', f'{50 * line.pitch:.0f}'
  command = ['espeak-ng', '-v', line.voice.name, '-s', rate, '-p', pitch]
  return [*command, '-w', str(wav), '--stdin']


ENGINES = {'flite': _flite, 'espeak-ng': _espeak, 'piper': _speak_with_piper}


def _run(command: Sequence[str], text: str, seconds: float) -> None:
  name = command[2] if command[1] == '-m' else command[0]
  try:
    done = subprocess.run(
      command, input=text.encode(), capture_output=True, timeout=seconds, check=False
    )
  except subprocess.TimeoutExpired:
    raise ChildProcessError(f'{name} took more than {seconds} s on {text!r}') from None
  if done.returncode:
    reason = ' '.join(done.stderr.decode(errors='replace').strip().splitlines()[-1:])
    raise ChildProcessError(f'{name} failed on {text!r}: {reason}')


def _to_flac(wav: Path, line: Line, folder: Path) -> None:
  try:
    samples, sample_rate = soundfile.read(wav, dtype='int16')
  except soundfile.LibsndfileError:
    samples, sample_rate = [], 0
  if len(samples) == 0:
    raise ChildProcessError(f'{line.voice} said nothing to {line.text!r}')
  with replace_atomically(folder / f'{line.id}.flac') as temporary:
    soundfile.write(temporary, samples, sample_rate, format='FLAC')
