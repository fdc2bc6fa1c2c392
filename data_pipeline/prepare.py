# SPDX-License-Identifier: Apache-2.0
"""A corpus as its publisher ships it -> ArrayRecord shards of 16 kHz speech.

  python -m data_pipeline.prepare --input=speech/manifest.jsonl --output=prepared

Shard i holds the i-th `--shard_size` utterances: the same input gives the same bytes,
wherever and however often it is run. A finished shard is noted in `OUTPUT/progress`,
where a run that was stopped goes on. Utterances that cannot be used are skipped,
counted in `dataset.json` and listed in `skipped.jsonl`.

The shards are made by Apache Beam: in this process, with a thread per core, or where
`--runner` says (Flink, Spark, Dataflow), with what `--beam_options` says to Beam:

  python -m data_pipeline.prepare --corpus=mls --input=/gcs/mls --output=/gcs/prepared \
      --runner=DataflowRunner --beam_options='--project=speech --region=us-central1
      --temp_location=gs://speech/tmp --setup_file=./setup.py'

The workers need this package, and the input and the output as folders at these same
paths: a shared file system, or a bucket that is mounted. The corpus is listed here.
More than a dozen cores of one machine keep busy with
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

from acl_jax.runtime import program
from acl_jax.runtime.files import open_atomically
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
  runner: str = pipeline.DIRECT,
  beam_options: Sequence[str] = (),
) -> dict[str, Any]:
  """Writes the shards that are not there yet; returns the content of `dataset.json`.

  ValueError if `output` holds something else, or if more than the share `max_skipped`
  of the utterances had to be skipped (the finished shards stay for the next run).
  """
  settings = settings or Settings()
  output = Path(output).absolute()  # a worker may run in another folder
  items = open_corpus(corpus, Path(input).absolute())
  listed = plan.plan_shards(items, output / 'plan', settings.shard_size)
  if not listed.parts:
    raise ValueError(f'{input}: no utterances in the layout of --corpus={corpus}')
  # Other runners have the cores busy with other parts.
  threads = threads or (os.cpu_count() if runner == pipeline.DIRECT else 1) or 1
  job = Job(output, listed, settings, threads)
  try:
    _check_output(job, input)
  except ValueError:
    shutil.rmtree(listed.folder)
    raise
  if not (output / 'dataset.json').exists():
    _begin(job)
    pipeline.run(job, runner, beam_options)
  shutil.rmtree(listed.folder)
  return summary.write(job, max_skipped)


def _check_output(job: Job, input: str | Path) -> None:
  """Raises ValueError if the folder holds anything but what this job makes."""
  mend = f'delete {job.output} or choose another --output'
  now = _flat(job.settings)
  for name, before in _begun_with(job).items():
    if now.get(name) != before:
      raise ValueError(
        f'{job.output}: was begun with {name}={before!r}, not {now.get(name)!r}; {mend}'
      )
  names = {job.shard(part).name for part in range(job.plan.parts)}
  strangers = {path.name for path in job.output.glob('data-*.array_record')} - names
  if strangers:
    raise ValueError(
      f'{job.output / min(strangers)}: is not one of the {len(names)} shards that '
      f'{input} makes; {mend}'
    )
  if not (job.output / 'dataset.json').exists():
    return  # what has changed since is made again
  parts, is_done = range(job.plan.parts), functools.partial(shard.is_done, job=job)
  for part, done in enumerate(shard.in_order(is_done, parts, job.threads)):
    if not done:
      raise ValueError(
        f'{job.shard(part)}: was made from other utterances or files than {input} '
        f'has now; {mend}'
      )


def _settings_file(job: Job) -> Path:
  return job.output / 'progress' / 'settings.json'


def _flat(settings: Settings) -> dict[str, Any]:
  """Names and values, as JSON has them."""
  content = dataclasses.asdict(settings)
  content |= content.pop('limits') | {'schema_version': records.SCHEMA_VERSION}
  return json.loads(json.dumps(content))


def _begun_with(job: Job) -> dict[str, Any]:
  try:
    return dict(json.loads(_settings_file(job).read_text()))
  except (OSError, ValueError, TypeError):
    return {}


def _begin(job: Job) -> None:
  _settings_file(job).parent.mkdir(exist_ok=True)
  with open_atomically(_settings_file(job)) as file:
    json.dump(_flat(job.settings), file)


def main(argv: Sequence[str]) -> None:
  """Runs `prepare` with the flags."""
  del argv
  given = flags.FLAGS
  limits = audio.Limits(seconds=given.max_seconds)
  info = prepare(
    given.corpus,
    given.input,
    given.output,
    settings=Settings(given.shard_size, given.max_characters, given.encoding, limits),
    max_skipped=given.max_skipped,
    threads=given.threads,
    runner=given.runner,
    beam_options=shlex.split(given.beam_options),
  )
  print(
    f'prepare: {info["examples"]} utterances, {info["hours"]:.2f} hours, '
    f'{sum(info["skipped_by_field"].values())} skipped, in {given.output}'
  )


if __name__ == '__main__':
  # Defined here: other programs of this package have flags of the same names.
  flags.DEFINE_enum('corpus', 'manifest', sorted(CORPORA), 'layout of the corpus')
  flags.DEFINE_string('input', None, 'the manifest, or the folder of the corpus')
  flags.DEFINE_string('output', None, 'folder to write')
  flags.DEFINE_enum('encoding', 'flac', records.ENCODINGS, 'of the audio in the shards')
  flags.DEFINE_integer('shard_size', 1_000, 'utterances per shard', lower_bound=1)
  flags.DEFINE_float('max_skipped', 0.01, 'share that may be unusable', 0, 1)
  flags.DEFINE_integer('max_characters', 2_000, 'of a transcript', lower_bound=1)
  flags.DEFINE_float('max_seconds', 600, 'of an utterance', 0.025, records.MAX_SECONDS)
  flags.DEFINE_integer('threads', None, 'that decode; one per core on the DirectRunner')
  flags.DEFINE_string('runner', pipeline.DIRECT, 'any runner of Apache Beam')
  flags.DEFINE_string('beam_options', '', "Beam's own, separated by spaces")
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
