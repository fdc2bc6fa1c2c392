# SPDX-License-Identifier: Apache-2.0
"""Text lines -> speech and a manifest, by text-to-speech engines run as separate programs.

  python -m data_pipeline.synthesize --input=lines.txt --output=speech \
      --voices=flite:slt,espeak-ng:en-us+f2,piper:en_US-joe-medium.onnx

Line i is spoken by a voice, at a rate and a pitch, that depend on (seed, i) alone. What is
already spoken is kept, so an interrupted run continues. piper and espeak-ng are GPL: they are
started as programs and never imported.
"""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import soundfile
from absl import app, flags

MAX_CHARACTERS = 1_000
SECONDS_PER_LINE = 60
PIPER_LINES_PER_PROCESS = 64  # loading a neural voice takes seconds, a line a fraction


@dataclasses.dataclass(frozen=True)
class Voice:
  """An engine and one of its voices, written `engine:name`."""

  engine: str
  name: str

  def __str__(self) -> str:
    return f'{self.engine}:{Path(self.name).stem}'

  @classmethod
  def parse(cls, written: str) -> 'Voice':
    engine, colon, name = written.partition(':')
    if not colon or not name or engine not in ENGINES:
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


def plan(
  lines: Sequence[str], voices: Sequence[Voice], seed: int, variation: float
) -> list[Line]:
  """Who says which line, how fast and how high: a function of (seed, line number)."""
  spoken = []
  for number, text in enumerate(lines):
    if len(text) > MAX_CHARACTERS:
      raise ValueError(
        f'line {number + 1} has {len(text)} characters; the limit is {MAX_CHARACTERS}'
      )
    rng = random.Random(f'{seed}/{number}')
    rate, pitch = (1 + variation * rng.uniform(-1, 1) for _ in range(2))
    spoken.append(Line(f'{number:07d}', text, rng.choice(voices), rate, pitch))
  return spoken


def _flite(line: Line, wav: Path) -> list[str]:
  stretch = f'duration_stretch={1 / line.rate:.3f}'
  return ['flite', '--setf', stretch, '-voice', line.voice.name, '-o', str(wav)]


def _espeak(line: Line, wav: Path) -> list[str]:
  rate, pitch = f'{165 * line.rate:.0f}', f'{50 * line.pitch:.0f}'
  command = ['espeak-ng', '-v', line.voice.name, '-s', rate, '-p', pitch]
  return [*command, '-w', str(wav), '--stdin']


ENGINES = {'flite': _flite, 'espeak-ng': _espeak, 'piper': None}


def _run(command: list[str], text: str) -> None:
  """Runs a program with the text on its input, never on its command line."""
  done = subprocess.run(
    command,
    input=text.encode(),
    capture_output=True,
    timeout=SECONDS_PER_LINE,
    check=False,
  )
  if done.returncode:
    reason = ' '.join(done.stderr.decode(errors='replace').strip().splitlines()[-1:])
    raise RuntimeError(f'{command[0]} failed on {text!r}: {reason}')


def _speak_one(line: Line, folder: Path) -> None:
  wav = folder / f'.{line.id}.wav'
  _run(ENGINES[line.voice.engine](line, wav), line.text)
  _write_flac(*soundfile.read(wav, dtype='int16'), folder / f'{line.id}.flac')
  wav.unlink()


def _speak_with_piper(lines: Sequence[Line], folder: Path) -> None:
  """Many lines of one voice in one process: piper names its files by the order of time."""
  scratch = folder / f'.piper-{lines[0].id}'
  shutil.rmtree(scratch, ignore_errors=True)
  scratch.mkdir()
  (scratch / 'lines').write_text('\n'.join(line.text for line in lines) + '\n')
  rate = sum(line.rate for line in lines) / len(lines)
  command = [
    sys.executable,
    '-m',
    'piper',
    '-m',
    lines[0].voice.name,
    '-d',
    str(scratch),
  ]
  command += ['-i', str(scratch / 'lines'), '--length-scale', f'{1 / rate:.3f}']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  made = sorted(scratch.glob('*.wav'), key=lambda path: int(path.stem))
  if done.returncode or len(made) != len(lines):
    reason = ' '.join(done.stderr.strip().splitlines()[-1:])
    raise RuntimeError(f'piper made {len(made)} files of {len(lines)} lines: {reason}')
  for line, wav in zip(lines, made, strict=True):
    _write_flac(*soundfile.read(wav, dtype='int16'), folder / f'{line.id}.flac')
  shutil.rmtree(scratch)


def _write_flac(samples, sample_rate: int, path: Path) -> None:
  if samples.size == 0:
    raise RuntimeError(f'{path.name}: the engine said nothing')
  unfinished = path.with_suffix('.unfinished')
  soundfile.write(unfinished, samples, sample_rate, format='FLAC')
  os.replace(unfinished, path)


def _jobs(lines: Sequence[Line]) -> Iterator[tuple]:
  """What is left to say, cut into pieces of work."""
  piper: dict[Voice, list[Line]] = {}
  for line in lines:
    if line.voice.engine == 'piper':
      piper.setdefault(line.voice, []).append(line)
    else:
      yield _speak_one, line
  for spoken in piper.values():
    for start in range(0, len(spoken), PIPER_LINES_PER_PROCESS):
      yield _speak_with_piper, spoken[start : start + PIPER_LINES_PER_PROCESS]


def synthesize(
  lines: Sequence[str],
  voices: Sequence[Voice],
  output: Path,
  *,
  seed: int = 0,
  variation: float = 0.15,
  workers: int | None = None,
) -> Path:
  """Say every line; returns the manifest `output/manifest.jsonl`."""
  spoken = plan(lines, voices, seed, variation)
  folder = output / 'audio'
  folder.mkdir(parents=True, exist_ok=True)
  left = [line for line in spoken if not (folder / f'{line.id}.flac').exists()]
  jobs = list(_jobs(left))
  print(
    f'synthesize: {len(spoken)} lines, {len(spoken) - len(left)} spoken before',
    flush=True,
  )
  with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
    running = [pool.submit(job, work, folder) for job, work in jobs]
    try:
      for number, done in enumerate(running, 1):
        done.result()
        if number % 500 == 0 or number == len(running):
          print(f'synthesize: {number} of {len(running)} pieces of work', flush=True)
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return _write_manifest(spoken, output)


def _write_manifest(spoken: Sequence[Line], output: Path) -> Path:
  manifest = output / 'manifest.jsonl'
  unfinished = output / 'manifest.unfinished'
  with unfinished.open('w', encoding='utf-8') as file:
    for line in spoken:
      path = f'audio/{line.id}.flac'
      entry = {
        'audio_filepath': path,
        'text': line.text,
        'duration': round(soundfile.info(output / path).duration, 3),
        'id': line.id,
        'speaker': str(line.voice),
        'lang': 'en',
      }
      file.write(json.dumps(entry, ensure_ascii=False) + '\n')
  os.replace(unfinished, manifest)
  return manifest


_INPUT = flags.DEFINE_string('input', None, 'text file, one line of speech per line')
_OUTPUT = flags.DEFINE_string('output', None, 'folder for audio/ and manifest.jsonl')
_VOICES = flags.DEFINE_list(
  'voices', [], 'engine:name, … with flite, espeak-ng or piper'
)
_SEED = flags.DEFINE_integer('seed', 0, 'which voice says which line')
_VARIATION = flags.DEFINE_float('variation', 0.15, 'spread of rate and pitch', 0, 0.5)


def main(_):
  try:
    if not (_INPUT.value and _OUTPUT.value and _VOICES.value):
      raise ValueError('--input, --output and --voices are needed')
    voices = [Voice.parse(written) for written in _VOICES.value]
    text = Path(_INPUT.value).read_text(encoding='utf-8')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    manifest = synthesize(
      lines, voices, Path(_OUTPUT.value), seed=_SEED.value, variation=_VARIATION.value
    )
  except (ValueError, OSError, RuntimeError) as error:
    sys.exit(f'synthesize: {error}')
  print(f'synthesize: {manifest}')


if __name__ == '__main__':
  app.run(main)
