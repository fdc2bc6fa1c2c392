# SPDX-License-Identifier: Apache-2.0
r"""Program: convert a published corpus to ArrayRecord shards of 16 kHz speech.

  python -m data_pipeline.prepare --input=speech/manifest.jsonl --output=prepared

Shard i holds the i-th `--shard_size` utterances, so the same input gives the same bytes
in every run. Finished shards are recorded in `OUTPUT/progress`, from which a stopped
run resumes. Utterances that cannot be used are skipped, counted in `dataset.json` and
listed in `skipped.jsonl`.

Apache Beam makes the shards: in this process, with one thread per core, or on any
`--runner` (Flink, Spark, Dataflow) with its `--beam_options`:

  python -m data_pipeline.prepare --corpus=mls --input=/gcs/mls --output=/gcs/prepared \
      --runner=DataflowRunner --beam_options='--project=speech --region=us-central1
      --temp_location=gs://speech/tmp --setup_file=./setup.py'

The workers need this package, and the input and the output at the same paths: on a
shared file system or a mounted bucket. The corpus is listed in this process. To use
more than a dozen cores of one machine, set
`--beam_options='--direct_running_mode=multi_processing --direct_num_workers=8'`.
"""

import dataclasses
import functools
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax.runtime import locks, program
from acl_jax.runtime.files import open_atomically, require_local
from data_pipeline import audio, records
from data_pipeline.corpora import CORPORA, open_corpus
from data_pipeline.preparation import pipeline, plan, shard, summary
from data_pipeline.preparation.shard import Job, Settings


def prepare(
  corpus: str,
  input: str | Path,
  output: str | Path,
  *,
  settings: Settings | None = None,
  max_skipped: float = 0.01,
  threads: int | None = None,
  beam: pipeline.Beam = pipeline.Beam(),  # noqa: B008
  contained: bool = False,
) -> dict[str, Any]:
  """Write the shards that are not complete; returns the content of `dataset.json`.

  max_skipped: fraction of utterances that may be skipped. threads: that decode.
  contained: see `open_corpus`.

  ValueError if `output` holds another corpus or was written with other settings, if
  another program writes to it, or if too many utterances were skipped; finished shards
  are kept for the next run.
  """
  settings = settings or Settings()
  output = require_local(
    output, '--output'
  ).absolute()  # workers may have another working directory
  input = require_local(input, '--input').absolute()
  utterances = open_corpus(corpus, input, contained)
  # Other runners use the cores for other parts.
  threads = threads or (os.cpu_count() if beam.runner == pipeline.DIRECT else 1) or 1
  with locks.own_folder(output) as lock:
    shard_plan = plan.plan_shards(utterances, output / 'plan', settings.shard_size)
    if not shard_plan.parts:
      raise ValueError(f'{input}: has no utterances in the layout --corpus={corpus}')
    job = Job(output, shard_plan, settings, threads)
    try:
      _check_output(job, input)
    except ValueError:
      shutil.rmtree(shard_plan.folder)
      raise
    if not (output / 'dataset.json').exists():
      _write_settings(job)
      pipeline.run(job, *beam)
    shutil.rmtree(shard_plan.folder)
    lock.check()  # before the summary makes the folder complete
    return summary.write_summary(job, max_skipped)


def _check_output(job: Job, input: str | Path) -> None:
  """Raise ValueError if the output folder does not belong to this job."""
  advice = f'delete {job.output} or choose another --output'
  settings = _settings_json(job.settings)
  for name, previous in _read_settings(job).items():
    if settings.get(name) != previous:
      raise ValueError(
        f'{job.output}: was written with {name}={previous!r}, not'
        f' {settings.get(name)!r}; {advice}'
      )
  names = {job.shard_path(part).name for part in range(job.plan.parts)}
  unexpected = {path.name for path in job.output.glob('data-*.array_record')} - names
  if unexpected:
    raise ValueError(
      f'{job.output / min(unexpected)}: is not one of the {len(names)} shards of'
      f' {input}; {advice}'
    )
  if not (job.output / 'dataset.json').exists():
    return  # outdated shards are made again
  is_complete = functools.partial(shard.is_complete, job=job)
  complete = shard.map_in_order(is_complete, range(job.plan.parts), job.threads)
  for part, part_is_complete in enumerate(complete):
    if not part_is_complete:
      raise ValueError(
        f'{job.shard_path(part)}: was made from other utterances or files than {input}'
        f' has now; {advice}'
      )


def _settings_path(job: Job) -> Path:
  return job.output / 'progress' / 'settings.json'


def _settings_json(settings: Settings) -> dict[str, Any]:
  """Return the settings, limits and schema version as JSON values by name."""
  content = dataclasses.asdict(settings)
  content |= content.pop('limits') | {'schema_version': records.SCHEMA_VERSION}
  return json.loads(json.dumps(content))


def _read_settings(job: Job) -> dict[str, Any]:
  """Return the settings of an earlier run, {} if there are none."""
  try:
    return dict(json.loads(_settings_path(job).read_text()))
  except (OSError, ValueError, TypeError):
    return {}


def _write_settings(job: Job) -> None:
  _settings_path(job).parent.mkdir(exist_ok=True)
  with open_atomically(_settings_path(job)) as file:
    json.dump(_settings_json(job.settings), file)


def main(argv: Sequence[str]) -> None:
  """Run `prepare` with the flags."""
  del argv
  args = flags.FLAGS
  limits = audio.Limits(args.max_file_mib << 20, seconds=args.max_seconds)
  info = prepare(
    args.corpus,
    args.input,
    args.output,
    settings=Settings(args.shard_size, args.max_characters, args.encoding, limits),
    max_skipped=args.max_skipped,
    threads=args.threads,
    beam=pipeline.Beam(args.runner, shlex.split(args.beam_options)),
    contained=args.contained,
  )
  print(
    f'prepare: {info["examples"]} utterances, {info["hours"]:.2f} hours, '
    f'{sum(info["skipped_by_field"].values())} skipped, in {args.output}'
  )
  if count := info['without_speech']['count']:
    print(f'prepare: no speech in {count} of them; dataset.json names them')


if __name__ == '__main__':
  # Defined here: other programs of this package have flags of the same names.
  flags.DEFINE_enum('corpus', 'manifest', sorted(CORPORA), 'layout of the corpus')
  flags.DEFINE_string('input', None, 'manifest or folder of the corpus')
  flags.DEFINE_bool('contained', False, 'refuse audio and links outside the corpus')
  flags.DEFINE_string('output', None, 'folder to write')
  flags.DEFINE_enum('encoding', 'flac', records.ENCODINGS, 'of the audio in the shards')
  flags.DEFINE_integer('shard_size', 1_000, 'utterances per shard', lower_bound=1)
  flags.DEFINE_float('max_skipped', 0.01, 'fraction that may be unusable', 0, 1)
  flags.DEFINE_integer('max_characters', 2_000, 'of a transcript', lower_bound=1)
  flags.DEFINE_float('max_seconds', 600, 'of an utterance', 0.025, records.MAX_SECONDS)
  flags.DEFINE_integer(
    'max_file_mib', 25, 'size of an audio file, also if only a part is read', 1, 1 << 20
  )
  flags.DEFINE_integer('threads', None, 'that decode; one per core on the DirectRunner')
  flags.DEFINE_string('runner', pipeline.DIRECT, 'any runner of Apache Beam')
  flags.DEFINE_string('beam_options', '', "Beam's options, separated by spaces")
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
