# SPDX-License-Identifier: Apache-2.0
r"""Program: synthesize the evaluation sets, and write manifests to evaluate on.

  python -m data_pipeline.evaluation_sets.build --output=sets
  python -m data_pipeline.evaluation_sets.build --output=sets --sets=questions,choices \
      --voices=kokoro:bf_isabella,kokoro:am_onyx,fr=piper:fr_FR-upmc-medium.onnx

Writes `OUTPUT/NAME.jsonl` for every set and `OUTPUT/audio`. Which voice speaks a line
depends on the line's id and the voices alone. Audio that exists is kept, so a stopped
run resumes. The set `asterisk` has recorded prompts of Debian's asterisk-core-sounds.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import soundfile
from absl import flags

from acl_jax.runtime import locks, program
from acl_jax.runtime.files import write_atomically
from acl_jax.runtime.progress import progress
from data_pipeline.evaluation_sets import asterisk, texts
from data_pipeline.evaluation_sets.manifests import plan_line
from data_pipeline.evaluation_sets.speech import Speaker
from data_pipeline.evaluation_sets.voices import choose_voices

NAMES = (*texts.SETS, 'asterisk')


def main(argv: Sequence[str]) -> None:
  """Build the sets that the flags name."""
  del argv
  args = flags.FLAGS
  names = args.sets or list(NAMES)
  if unknown := [name for name in names if name not in NAMES]:
    raise ValueError(f'--sets={unknown[0]} is unknown; use any of {",".join(NAMES)}')
  with locks.own_folder(output := Path(args.output)):
    _build(names, output)


def _build(names: Sequence[str], output: Path) -> None:
  args = flags.FLAGS
  written = [name for name in dict.fromkeys(names) if name in texts.SETS]
  if written:
    _synthesize_sets(written, args.voices or [], output, args.limit, args.every_pair)
  if 'asterisk' in names:
    try:
      _copy_asterisk(output, args.limit)
    except asterisk.NotInstalledError as error:
      if not written:
        raise
      _warn(f'asterisk is left out: {error}')


def _synthesize_sets(
  names: Sequence[str],
  specs: Sequence[str],
  output: Path,
  limit: int | None,
  every_pair: bool,
) -> None:
  """Synthesize sets of written texts; a failure leaves the audio so far."""
  voices, missing = choose_voices(specs)
  for reason in missing:
    _warn(reason)
  if 'en' not in voices:
    raise ValueError('no English voice is installed; install flite or espeak-ng')
  if 'translations' in names:
    for lang in texts.LANGUAGES:
      if lang not in voices:
        _warn(f'translations from {lang} are left out: no voice of it is installed')
  speaker = Speaker(voices, output)
  sets = {
    name: [
      plan_line(name, entry, speaker, every_pair)
      for entry in texts.read_set(name)[:limit]
    ]
    for name in names
  }
  speaker.speak()
  for name, finishers in sets.items():
    _write(
      output / f'{name}.jsonl', (line for finish in finishers for line in finish())
    )


def _copy_asterisk(output: Path, limit: int | None) -> None:
  """Decode the installed prompts; `limit` counts those of each direction."""
  pairs, missing = asterisk.read_pairs()
  for reason in missing:
    _warn(f'asterisk: {reason}')
  counts: dict[tuple[str, str], int] = {}
  lines = []
  (output / 'audio').mkdir(parents=True, exist_ok=True)
  with progress('asterisk', len(pairs)) as advance:
    for pair in pairs:
      advance(1)
      direction = pair.lang, pair.target_lang
      counts[direction] = counts.get(direction, 0) + 1
      if limit is not None and counts[direction] > limit:
        continue
      path = output / 'audio' / f'{pair.id}.flac'
      if not path.exists():
        asterisk.write_audio(pair, path)
      lines.append(
        {
          'audio_filepath': f'audio/{path.name}',
          'duration': round(soundfile.info(path).duration, 3),
          'speaker': pair.audio.parents[pair.name.count('/')].name,
          'lang': pair.lang,
          'id': pair.id,
          'text': pair.text,
          'reference': pair.reference,
          'target_lang': pair.target_lang,
        }
      )
  _write(output / 'asterisk.jsonl', lines)


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
  written = [json.dumps(line, ensure_ascii=False) + '\n' for line in lines]
  write_atomically(path, ''.join(written))
  print(f'build: {len(written)} lines in {path}')


def _warn(message: str) -> None:
  print(f'build: {message}', file=sys.stderr)


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_string('output', None, 'folder for the manifests and audio/')
  flags.DEFINE_list('sets', None, f'which of {",".join(NAMES)}; by default all')
  flags.DEFINE_list('voices', None, 'ENGINE:NAME or LANG=ENGINE:NAME,…; see synthesize')
  flags.DEFINE_integer('limit', None, 'lines of a set, at most', lower_bound=1)
  flags.DEFINE_bool(
    'every_pair', False, 'translate each sentence from and to all languages, not one'
  )
  flags.mark_flag_as_required('output')
  program.run(main)
