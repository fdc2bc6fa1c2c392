# SPDX-License-Identifier: Apache-2.0
r"""Program: text lines -> speech and a manifest, by text-to-speech engines.

  python -m data_pipeline.synthesize --input=lines.txt --output=speech \
      --voices=flite:slt,espeak-ng:en-us+f2,piper:en_US-joe-medium.onnx

Line i is spoken by a voice, at a rate and a pitch, that depend on (seed, i) alone. What
is already spoken is kept, so a run that was stopped continues.
"""

import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import soundfile
from absl import flags

from acl_jax.runtime import program
from acl_jax.runtime.files import write_atomically
from acl_jax.runtime.progress import progress
from data_pipeline.engines import Line, Voice, speak

MAX_CHARACTERS = 1_000
PIPER_LINES_PER_PROCESS = 64  # loading a neural voice takes seconds, a line a fraction


def synthesize(
  lines: Sequence[str],
  voices: Sequence[Voice],
  output: Path,
  *,
  seed: int = 0,
  variation: float = 0.15,
  workers: int | None = None,
) -> Path:
  """Says every line; returns the manifest `output/manifest.jsonl`."""
  spoken = assign_voices(lines, voices, seed, variation)
  folder = output / 'audio'
  folder.mkdir(parents=True, exist_ok=True)
  _claim(spoken, output)
  left = [line for line in spoken if not (folder / f'{line.id}.flac').exists()]
  with (
    progress('synthesize', max(len(spoken), 1)) as advance,
    ThreadPoolExecutor(workers or os.cpu_count()) as pool,
  ):
    advance(len(spoken) - len(left))
    running = {pool.submit(speak, work, folder): work for work in _pieces(left)}
    try:
      for done in as_completed(running):
        done.result()
        advance(len(running[done]))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return _write_manifest(spoken, output)


def assign_voices(
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


def _claim(spoken: Sequence[Line], output: Path) -> None:
  """Notes the plan; ValueError if the folder holds speech of another one.

  Lines may be added behind the others.
  """
  path = output / 'plan.jsonl'
  ours = [
    json.dumps([line.id, line.text, str(line.voice), line.rate, line.pitch]) + '\n'
    for line in spoken
  ]
  theirs = path.read_text().splitlines(keepends=True) if path.exists() else []
  for line, mine, other in zip(spoken, ours, theirs, strict=False):
    if mine != other:
      raise ValueError(
        f'{output}: line {line.id} was {other.strip()}, now it is {mine.strip()};'
        ' choose another --output'
      )
  if len(ours) > len(theirs):
    write_atomically(path, ''.join(ours))


def _pieces(lines: Sequence[Line]) -> Iterator[list[Line]]:
  """What is left to say, cut into pieces of work: lines of one voice."""
  of_voice: dict[Voice, list[Line]] = {}
  for line in lines:
    if line.voice.engine == 'piper':
      of_voice.setdefault(line.voice, []).append(line)
    else:
      yield [line]
  for spoken in of_voice.values():
    for start in range(0, len(spoken), PIPER_LINES_PER_PROCESS):
      yield spoken[start : start + PIPER_LINES_PER_PROCESS]


def _write_manifest(spoken: Sequence[Line], output: Path) -> Path:
  entries = (
    {
      'audio_filepath': f'audio/{line.id}.flac',
      'text': line.text,
      'duration': round(soundfile.info(output / f'audio/{line.id}.flac').duration, 3),
      'id': line.id,
      'speaker': str(line.voice),
      'lang': 'en',
    }
    for line in spoken
  )
  manifest = output / 'manifest.jsonl'
  lines = (json.dumps(entry, ensure_ascii=False) + '\n' for entry in entries)
  write_atomically(manifest, ''.join(lines))
  return manifest


def main(argv: Sequence[str]) -> None:
  """Runs `synthesize` with the flags."""
  del argv
  given = flags.FLAGS
  voices = [Voice.parse(written) for written in given.voices]
  text = Path(given.input).read_text(encoding='utf-8')
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  if not lines:
    raise ValueError(f'{given.input}: there is no line in it')
  output = Path(given.output)
  synthesize(lines, voices, output, seed=given.seed, variation=given.variation)
  print(f'synthesize: {len(lines)} lines in {output / "manifest.jsonl"}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_string('input', None, 'text file, one line of speech per line')
  flags.DEFINE_string('output', None, 'folder for audio/ and manifest.jsonl')
  flags.DEFINE_list('voices', None, 'engine:name, … with flite, espeak-ng or piper')
  flags.DEFINE_integer('seed', 0, 'which voice says which line')
  flags.DEFINE_float('variation', 0.15, 'spread of rate and pitch', 0, 0.5)
  flags.mark_flags_as_required(['input', 'output', 'voices'])
  program.run(main)
