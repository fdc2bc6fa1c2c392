# SPDX-License-Identifier: Apache-2.0
"""The frozen LLM's answer to every transcript of a corpus, written once, offline.

  python -m acl_jax.decode_targets --config=configs/smol.py --input=speech --output=out
  python -m acl_jax.decode_targets --output=out --inspect

Only transcripts are read, no audio. The shards are those of the prepared folder. Each
host takes some; a shard depends on its transcripts alone, so a job that was stopped
goes on with those that are missing, on as many hosts as there are then, to the same
bytes. Exit code 42: preempted, the shards that were finished are kept.
"""

import itertools
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

import acl_jax
from acl_jax import assets, build
from acl_jax.models.llama import Llama
from acl_jax.runtime import compilation_cache, distributed, program
from acl_jax.sharding.mesh import make_mesh
from acl_jax.targets import overview, provenance, store
from acl_jax.targets.progress import progress
from acl_jax.targets.prompting import TargetDecoder, TargetPrompt, TargetsConfig
from acl_jax.targets.store import Skip
from acl_jax.targets.transcripts import Transcript, Transcripts
from acl_jax.text.frontend import TextFrontend
from acl_jax.tpu import xla_flags
from acl_jax.weights.fingerprint import describe
from data_pipeline.records import shard_name

PAUSE = 1.0  # s between two looks for the shards of other hosts


class ShardPrompts(NamedTuple):
  """What to ask for one shard, and what cannot be asked."""

  path: Path
  examples: list[TargetPrompt]
  skipped: list[Skip]


def decode_targets(
  llama: Llama,
  text: TextFrontend,
  transcripts: Transcripts,
  output: Path,
  decoding: TargetsConfig,
  *,
  host: int = 0,
  hosts: int = 1,
  max_skipped: float = 0.1,
) -> None:
  """Writes the shards that are missing of those that are this host's.

  ValueError if `output` holds targets of another LLM, template, decoding or corpus, or
  if more than the share `max_skipped` of all transcripts has to be skipped.
  """
  total = len(transcripts.sizes)
  made_by = {
    'schema_version': provenance.SCHEMA_VERSION,
    'code': acl_jax.__version__,
    'llm': describe(llama),
    'template': provenance.describe_template(text),
    'decoding': decoding.describe(),
    'corpus': {'examples': len(transcripts), 'sha256': transcripts.sha256},
    'shards': total,
  }
  provenance.claim_folder(output, made_by)
  paths = [output / shard_name(store.NAME, i, total) for i in range(total)]
  ours = range(host, total, hosts)
  missing = [number for number in ours if not store.is_written(paths[number])]
  if len(missing) < len(ours):
    log(f'{len(ours) - len(missing)} of {len(ours)} shards are there already')
  if not missing:
    return
  answers = TargetDecoder(llama, text, decoding)
  asked, parts = itertools.tee(
    build_shard_prompts(paths[number], shard, answers)
    for number, shard in transcripts.read(missing)
  )
  count = sum(transcripts.sizes[number] for number in missing)
  skipped = 0
  with progress(count, answers.engine.statistics, decoding.batch_size) as advance:
    examples = itertools.chain.from_iterable(part.examples for part in asked)
    made = answers(examples, advance)
    for part in parts:
      skipped += len(part.skipped)
      check_share(skipped, len(transcripts), max_skipped)
      responses = itertools.islice(made, len(part.examples))
      store.write_targets(part.path, responses, part.skipped)


def build_shard_prompts(
  path: Path, shard: Sequence[Transcript], answers: TargetDecoder
) -> ShardPrompts:
  """Builds the prompts of a shard; skips what cannot have one, and says so."""
  part = ShardPrompts(path, [], [])
  for transcript in shard:
    try:
      if transcript.reason:
        raise ValueError(transcript.reason)
      part.examples.append(answers.example(transcript.id, transcript.text))
    except ValueError as error:
      skip = {'id': transcript.id, 'field': transcript.field, 'reason': str(error)}
      part.skipped.append(skip)
      log(f'skipped {transcript.id}: {error}')
  return part


def check_share(skipped: int, total: int, limit: float) -> None:
  """ValueError if more than a share of all transcripts had to be skipped."""
  if skipped > limit * total:
    raise ValueError(
      f'{skipped} of {total} transcripts cannot be answered, limit {limit:.1%}; they'
      ' are listed above: mend them or raise --max_skipped'
    )


def log(line: str) -> None:
  """A line of the log."""
  print(f'decode_targets: {line}', file=sys.stderr, flush=True)


def wait_for_others(output: Path, total: int) -> None:
  """Returns when all shards are there, those of the other hosts, too."""
  missing = [output / shard_name(store.NAME, i, total) for i in range(total)]
  before = 0
  while missing := [path for path in missing if not store.is_written(path)]:
    if len(missing) != before:
      log(f'other hosts are at {len(missing)} of {total} shards')
    before = len(missing)
    time.sleep(PAUSE)  # no barrier, as only this lets SIGTERM in


def stop_at_sigterm() -> None:
  """SIGTERM abandons the shard at work: nothing of it is there, all others are."""

  def stop(number: int, frame: object) -> NoReturn:
    del number, frame
    raise program.Preempted('decode_targets')

  signal.signal(signal.SIGTERM, stop)


def main(argv: Sequence[str]) -> None:
  """Runs `decode_targets` with the flags."""
  del argv
  given, output = flags.FLAGS, Path(flags.FLAGS.output)
  if given.inspect:
    return overview.print_overview(output)
  if not given.config or not given.input:
    raise ValueError('--config and --input are needed, unless it is to --inspect')
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  distributed.initialize()
  stop_at_sigterm()
  config: ml_collections.ConfigDict = given.config
  transcripts = Transcripts(Path(given.input), given.shard_size)
  # Every host decodes shards of its own, so the LLM is on the devices of each.
  with jax.set_mesh(make_mesh(config.mesh, jax.local_devices())):
    decode_targets(
      build.load_frozen_llama(config),
      build.load_text_frontend(config),
      transcripts,
      output,
      TargetsConfig(seed=config.seed, **config.targets.to_dict()),
      host=jax.process_index(),
      hosts=jax.process_count(),
      max_skipped=given.max_skipped,
    )
  wait_for_others(output, len(transcripts.sizes))
  if jax.process_index():
    return
  found = store.Targets(output)
  flagged = {name: count for name, count in sorted(found.flags().items()) if name}
  print(
    f'decode_targets: {len(found)} responses in {output}, {len(found.skipped)} skipped',
    *(f'{count} {name}' for name, count in flagged.items()),
    sep=', ',
  )


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('input', None, 'a prepared folder, or a manifest')
  flags.DEFINE_string('output', None, 'folder of the targets')
  flags.DEFINE_integer('shard_size', 512, "of a manifest's targets", lower_bound=1)
  flags.DEFINE_float('max_skipped', 0.1, 'share that may be without response', 0, 1)
  flags.DEFINE_bool('inspect', False, 'show what --output holds, and verify it')
  flags.mark_flags_as_required(['output'])
  program.run(main)
