# SPDX-License-Identifier: Apache-2.0
"""Text lines to speech and a manifest, with many engines running in parallel."""

import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import soundfile

from acl_jax.runtime import locks
from acl_jax.runtime.files import write_atomically
from acl_jax.runtime.progress import progress
from data_pipeline.corpus_tools.engines import SpokenLine, Voice, speak

MAX_CHARACTERS = 1_000
# Loading piper takes as long as it speaks many lines; kokoro speaks few meanwhile.
PIPER_LINES_PER_PROCESS, KOKORO_LINES_PER_PROCESS = 64, 16


def synthesize(
  lines: Sequence[str],
  voices: Sequence[Voice],
  output: Path,
  *,
  seed: int = 0,
  variation: float = 0.15,
  workers: int | None = None,
) -> Path:
  """Speak every line that has no audio yet; returns `output/manifest.jsonl`.

  variation: largest relative change of rate and pitch. workers: engines that run at a
  time; one per core unless given. ValueError if `output` holds the speech of other
  lines, voices or seeds, or if another program writes to it; ChildProcessError if an
  engine fails.
  """
  spoken_lines = assign_voices(lines, voices, seed, variation)
  folder = output / 'audio'
  with locks.own_folder(output):
    folder.mkdir(exist_ok=True)
    _record_plan(spoken_lines, output)
    speak_missing(spoken_lines, folder, workers)
    return _write_manifest(spoken_lines, output)


def speak_missing(
  spoken_lines: Sequence[SpokenLine], folder: Path, workers: int | None = None
) -> None:
  """Speak every line whose `folder/ID.flac` does not exist, with engines in parallel.

  ChildProcessError if an engine fails; what is spoken by then stays.
  """
  pending = [line for line in spoken_lines if not (folder / f'{line.id}.flac').exists()]
  with (
    progress('synthesize', max(len(spoken_lines), 1)) as advance,
    ThreadPoolExecutor(workers or os.cpu_count()) as pool,
  ):
    advance(len(spoken_lines) - len(pending))
    running = {
      pool.submit(speak, group, folder): group for group in _group_lines(pending)
    }
    try:
      for future in as_completed(running):
        future.result()
        advance(len(running[future]))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise


def assign_voices(
  lines: Sequence[str], voices: Sequence[Voice], seed: int, variation: float
) -> list[SpokenLine]:
  """Draw voice, rate and pitch of every line: a function of (seed, line number)."""
  spoken_lines = []
  for number, text in enumerate(lines):
    if len(text) > MAX_CHARACTERS:
      raise ValueError(
        f'line {number + 1} has {len(text)} characters; the limit is {MAX_CHARACTERS}'
      )
    rng = random.Random(f'{seed}/{number}')
    rate, pitch = (1 + variation * rng.uniform(-1, 1) for _ in range(2))
    voice = rng.choice(voices)
    spoken_lines.append(SpokenLine(f'{number:07d}', text, voice, rate, pitch))
  return spoken_lines


def _record_plan(spoken_lines: Sequence[SpokenLine], output: Path) -> None:
  """Write `plan.jsonl`; ValueError if the folder holds the speech of another plan.

  Lines may be appended to an earlier plan.
  """
  path = output / 'plan.jsonl'
  planned = [
    json.dumps([line.id, line.text, str(line.voice), line.rate, line.pitch]) + '\n'
    for line in spoken_lines
  ]
  existing = path.read_text().splitlines(keepends=True) if path.exists() else []
  for line, new, old in zip(spoken_lines, planned, existing, strict=False):
    if new != old:
      raise ValueError(
        f'{output}: line {line.id} was {old.strip()}, but is now {new.strip()};'
        ' choose another --output'
      )
  if len(planned) > len(existing):
    write_atomically(path, ''.join(planned))


def _group_lines(lines: Sequence[SpokenLine]) -> Iterator[list[SpokenLine]]:
  """Yield the lines that one call of `speak` takes: several for neural voices."""
  piper_lines: dict[Voice, list[SpokenLine]] = {}
  kokoro_lines: list[SpokenLine] = []
  for line in lines:
    if line.voice.engine == 'piper':
      piper_lines.setdefault(line.voice, []).append(line)
    elif line.voice.engine == 'kokoro':
      kokoro_lines.append(line)
    else:
      yield [line]
  for start in range(0, len(kokoro_lines), KOKORO_LINES_PER_PROCESS):
    yield kokoro_lines[start : start + KOKORO_LINES_PER_PROCESS]
  for group in piper_lines.values():
    for start in range(0, len(group), PIPER_LINES_PER_PROCESS):
      yield group[start : start + PIPER_LINES_PER_PROCESS]


def _write_manifest(spoken_lines: Sequence[SpokenLine], output: Path) -> Path:
  entries = (
    {
      'audio_filepath': f'audio/{line.id}.flac',
      'text': line.text,
      'duration': round(soundfile.info(output / f'audio/{line.id}.flac').duration, 3),
      'id': line.id,
      'speaker': str(line.voice),
      'lang': 'en',
    }
    for line in spoken_lines
  )
  manifest = output / 'manifest.jsonl'
  lines = (json.dumps(entry, ensure_ascii=False) + '\n' for entry in entries)
  write_atomically(manifest, ''.join(lines))
  return manifest
