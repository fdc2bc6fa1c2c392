# SPDX-License-Identifier: Apache-2.0
r"""Program: write a manifest of pseudo-labels for audio without transcripts.

  python -m data_pipeline.transcribe --input=recordings --output=labelled
  python -m data_pipeline.prepare --input=labelled/manifest.jsonl --output=prepared

`--input` is a folder with audio at any depth, or a manifest. `--model` is the embedded
Whisper, or a folder with any Whisper in CTranslate2's format. Every transcript has a
confidence; recordings without speech are not in the manifest, but in `skipped.jsonl`.
Results are stored in `OUTPUT/results.jsonl`, from which a stopped run resumes.
"""

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax import assets
from acl_jax.runtime import locks, program
from acl_jax.runtime.files import read_json, write_atomically
from acl_jax.runtime.progress import progress
from data_pipeline import audio, records
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.preparation.plan import Plan, plan_shards
from data_pipeline.preparation.shard import map_in_order
from data_pipeline.recogniser import BEAM_SIZE, COMPUTE_TYPES, Whisper
from data_pipeline.transcription import batches, outputs, recordings
from data_pipeline.transcription.batches import Settings
from data_pipeline.transcription.results import Results

_PART_SIZE = 1_000  # recordings listed in a file


def transcribe(
  input: str | Path,
  output: str | Path,
  recogniser: Whisper,
  *,
  settings: Settings | None = None,
  batch_size: int = 8,
  min_confidence: float = 0.0,
  max_skipped: float = 0.01,
  contained: bool = False,
) -> dict[str, Any]:
  """Transcribe what has no result yet; returns the content of `transcripts.json`.

  min_confidence: of a transcript in the manifest. max_skipped: fraction of recordings
  that may be unreadable. contained: see `recordings.read`.

  ValueError if `output` has results of another model or other settings, if another
  program writes to it, or if too many recordings are unreadable or none has speech; the
  results are kept for the next run.
  """
  settings = settings or Settings()
  input, output = Path(input).absolute(), Path(output).absolute()
  if settings.language and not recogniser.knows(settings.language):
    raise ValueError(f'--language={settings.language} is unknown to the model')
  found = recordings.read(input, contained)
  with locks.own_folder(output) as lock:
    plan = plan_shards(found, output / 'plan', _PART_SIZE)
    if not plan.parts:
      raise ValueError(f'{input}: has no audio')
    try:
      description = _claim(output, recogniser, settings)
    except ValueError:
      shutil.rmtree(plan.folder)
      raise
    with contextlib.closing(Results(output / 'results.jsonl')) as results:
      _transcribe_missing(plan, results, recogniser, settings, batch_size)
      lock.check()
      limits = outputs.Limits(min_confidence, max_skipped)
      info = outputs.write_outputs(output, plan, results, limits, description)
    shutil.rmtree(plan.folder)
  return info


def _claim(output: Path, recogniser: Whisper, settings: Settings) -> dict[str, Any]:
  """Store what determines the results, and return it.

  ValueError if there are results that something else determined.
  """
  model = {'sha256': recogniser.sha256, 'beam_size': BEAM_SIZE}
  description = {'model': model, 'settings': dataclasses.asdict(settings)}
  description = json.loads(json.dumps(description))
  path = output / 'settings.json'
  previous = read_json(path, missing_ok=True)
  for name, value in description.items():
    if previous and previous.get(name) != value:
      raise ValueError(
        f'{output}: was written with {name} {previous.get(name)}, not {value}; delete '
        'it or choose another --output'
      )
  write_atomically(path, json.dumps(description))
  return description


def _transcribe_missing(
  plan: Plan,
  results: Results,
  recogniser: Whisper,
  settings: Settings,
  batch_size: int,
) -> None:
  """Add the results of all recordings that have none."""

  def work(
    batch: Sequence[Utterance],
  ) -> tuple[Sequence[Utterance], list[dict[str, Any]]]:
    return batch, batches.transcribe_batch(batch, recogniser, settings)

  def find_missing() -> Iterator[Utterance]:
    for part in range(plan.parts):
      for utterance in plan.read(part):
        is_usable = isinstance(utterance, Utterance)
        if is_usable and recordings.fingerprint(utterance) not in results:
          yield utterance
        else:
          advance(1)

  with progress('transcribe', plan.utterances, 'recordings') as advance:
    missing = find_missing()
    groups = iter(lambda: list(itertools.islice(missing, batch_size)), [])
    for batch, found in map_in_order(work, groups, recogniser.at_once):
      for utterance, result in zip(batch, found, strict=True):
        # An unreadable recording may be readable in the next run.
        is_stored = 'reason' not in result
        results.add(recordings.fingerprint(utterance), result, is_stored)
      results.flush()
      advance(len(batch))


def main(argv: Sequence[str]) -> None:
  """Run `transcribe` with the flags."""
  del argv
  args = flags.FLAGS
  limits = audio.Limits(args.max_file_mib << 20, seconds=args.max_seconds)
  model = assets.resolve(args.model)
  info = transcribe(
    args.input,
    args.output,
    Whisper(model, device=args.device),
    settings=Settings(args.language, limits),
    batch_size=args.batch_size,
    min_confidence=args.min_confidence,
    max_skipped=args.max_skipped,
    contained=args.contained,
  )
  print(
    f'transcribe: {info["transcripts"]} of {info["recordings"]} recordings, '
    f'{info["hours"]:.2f} hours, in {args.output}/manifest.jsonl'
  )
  if info['flagged'] or info['skipped_by_field']:
    print(
      f'transcribe: flagged {info["flagged"]}, left out {info["skipped_by_field"]}; '
      f'{args.output}/skipped.jsonl names the latter'
    )


if __name__ == '__main__':
  # Defined here: other programs of this package have flags of the same names.
  flags.DEFINE_string('input', None, 'folder of audio, or manifest')
  flags.DEFINE_string('output', None, 'folder to write')
  flags.DEFINE_string('model', 'asset:whisper-base', 'CTranslate2 folder of a Whisper')
  flags.DEFINE_enum('device', 'cpu', sorted(COMPUTE_TYPES), 'to recognise on')
  flags.DEFINE_string('language', None, 'code of the language; guessed by default')
  flags.DEFINE_integer('batch_size', 8, 'recordings decoded together', 1, 1_024)
  flags.DEFINE_float('min_confidence', 0.0, 'of a transcript in the manifest', 0, 1)
  flags.DEFINE_float('max_skipped', 0.01, 'fraction that may be unreadable', 0, 1)
  flags.DEFINE_float('max_seconds', 600, 'of a recording', 0.025, records.MAX_SECONDS)
  flags.DEFINE_integer(
    'max_file_mib', 25, 'size of an audio file, also if only a part is read', 1, 1 << 20
  )
  flags.DEFINE_bool('contained', False, 'refuse audio and links outside of the input')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
