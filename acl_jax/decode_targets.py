# SPDX-License-Identifier: Apache-2.0
"""Program: decode the frozen LLM's responses to the transcripts of a corpus.

  python -m acl_jax.decode_targets --config=configs/smol.py --input=speech --output=out
  python -m acl_jax.decode_targets --output=out --inspect

Reads only transcripts, no audio, and leaves their tokens beside them for training. The
output has the shards of the prepared folder, divided among the hosts. A shard depends
only on its transcripts, so an interrupted job resumes with the missing shards, on any
number of hosts, and writes the same bytes. Exit code 42: preempted; complete shards are
kept.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

import acl_jax
from acl_jax import assets, build
from acl_jax.batches.token_tables import open_tables
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.models.llama import Llama
from acl_jax.runtime import (
  compilation_cache,
  config_flag,
  distributed,
  job_lock,
  preemption,
  program,
)
from acl_jax.runtime.files import require_local
from acl_jax.runtime.progress import progress
from acl_jax.sharding.mesh import make_mesh
from acl_jax.targets import overview, provenance, store
from acl_jax.targets.progress import ThroughputStatus
from acl_jax.targets.prompting import Decoding, TargetDecoder, TargetPrompt
from acl_jax.targets.store import Skip
from acl_jax.targets.transcripts import Transcript, Transcripts
from acl_jax.text.frontend import TextFrontend
from acl_jax.tpu import xla_flags
from acl_jax.weights.fingerprint import describe
from data_pipeline.line_index import open_prepared
from data_pipeline.records import shard_name

PAUSE = 1.0  # seconds between checks for the shards of other hosts


class ShardPrompts(NamedTuple):
  """The prompts of a shard, and the transcripts without one."""

  path: Path
  prompts: list[TargetPrompt]
  skipped: list[Skip]


def decode_targets(
  llama: Llama,
  text: TextFrontend,
  transcripts: Transcripts,
  output: Path,
  decoding: Decoding,
  *,
  host: int = 0,
  hosts: int = 1,
  max_skipped: float = 0.1,
) -> None:
  """Decode and write the missing shards of this host.

  host, hosts: index and number of the hosts. max_skipped: share of all transcripts that
  may be skipped.

  ValueError if more are skipped, or if `output` has targets of another LLM, template,
  decoding or corpus.
  """
  total = len(transcripts.shard_sizes)
  expected = {
    'schema_version': provenance.SCHEMA_VERSION,
    'code': acl_jax.__version__,
    'llm': describe(llama),
    'template': provenance.describe_template(text),
    'decoding': decoding.describe(),
    'corpus': {'examples': len(transcripts), 'sha256': transcripts.sha256},
    'shards': total,
  }
  provenance.claim_folder(output, expected)
  paths = [output / shard_name(store.NAME, i, total) for i in range(total)]
  shards = range(host, total, hosts)
  missing = [i for i in shards if not store.is_complete(paths[i])]
  if len(missing) < len(shards):
    log(f'{len(shards) - len(missing)} of {len(shards)} shards are complete already')
  if not missing:
    return
  decoder = TargetDecoder(llama, text, decoding)
  # The engine takes prompts across shards, ahead of the shard that is being written.
  ahead, to_write = itertools.tee(
    build_shard_prompts(paths[i], shard, decoder)
    for i, shard in transcripts.read_shards(missing)
  )
  num_responses = sum(transcripts.shard_sizes[i] for i in missing)
  num_skipped = 0
  status = ThroughputStatus(decoder.engine.statistics, decoding.config.batch_size)
  with progress('decode_targets', num_responses, 'responses') as advance:
    prompts = itertools.chain.from_iterable(shard.prompts for shard in ahead)
    targets = decoder.decode(
      prompts, lambda tokens: advance(1, status.add_response(tokens))
    )
    for shard in to_write:
      num_skipped += len(shard.skipped)
      check_skipped(num_skipped, len(transcripts), max_skipped)
      of_shard = itertools.islice(targets, len(shard.prompts))
      store.write_targets(shard.path, of_shard, shard.skipped)


def build_shard_prompts(
  path: Path, transcripts: Sequence[Transcript], decoder: TargetDecoder
) -> ShardPrompts:
  """Build the prompts of a shard; transcripts without one are skipped and logged."""
  shard = ShardPrompts(path, [], [])
  for transcript in transcripts:
    try:
      if transcript.reason:
        raise ValueError(transcript.reason)
      shard.prompts.append(decoder.build_prompt(transcript.id, transcript.text))
    except ValueError as error:
      skip = {'id': transcript.id, 'field': transcript.field, 'reason': str(error)}
      shard.skipped.append(skip)
      log(f'skipped {transcript.id}: {error}')
  return shard


def check_skipped(skipped: int, total: int, limit: float) -> None:
  """Raise ValueError if more than the share `limit` of all transcripts was skipped."""
  if skipped > limit * total:
    raise ValueError(
      f'{skipped} of {total} transcripts were skipped, limit {limit:.1%}; they are'
      ' logged above. Fix them or raise --max_skipped'
    )


def log(line: str) -> None:
  """Print a line to stderr."""
  print(f'decode_targets: {line}', file=sys.stderr, flush=True)


def wait_for_others(output: Path, total: int) -> None:
  """Wait until the shards of all hosts are complete."""
  missing = [output / shard_name(store.NAME, i, total) for i in range(total)]
  num_logged = 0
  while missing := [path for path in missing if not store.is_complete(path)]:
    if len(missing) != num_logged:
      log(f'other hosts still decode {len(missing)} of {total} shards')
    num_logged = len(missing)
    time.sleep(PAUSE)  # not a barrier, which would block SIGTERM


def main(argv: Sequence[str]) -> None:
  """Parse the config, then decode the targets or inspect them."""
  del argv
  args, output = flags.FLAGS, require_local(flags.FLAGS.output, '--output')
  if args.inspect:
    return overview.print_overview(output)
  if not args.config or not args.input:
    raise ValueError('--config and --input are required without --inspect')
  config = parse_train(args.config)
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  distributed.initialize()
  preemption.install_handler()
  source = require_local(args.input, '--input')
  transcripts = Transcripts(source, args.shard_size)
  text = build.load_text_frontend(config.llama, config.template)
  with job_lock.own_folder(output, '--output'):
    # Every host decodes shards of its own, so each has the whole LLM on its devices.
    with jax.set_mesh(make_mesh(config.mesh.sizes, jax.local_devices())):
      decode_targets(
        build.load_frozen_llama(config.llama),
        text,
        transcripts,
        output,
        Decoding(config.targets, config.seed),
        host=jax.process_index(),
        hosts=jax.process_count(),
        max_skipped=args.max_skipped,
      )
    wait_for_others(output, len(transcripts.shard_sizes))
    if source.is_dir():  # training needs them in any case; here are many hosts
      open_tables([open_prepared(source)], text.tokenizer.text_encoder(), output)
  if jax.process_index():
    return
  targets = store.Targets(output)
  flag_counts = [(flag, n) for flag, n in sorted(targets.flag_counts().items()) if flag]
  print(
    f'decode_targets: {len(targets)} responses in {output},'
    f' {targets.num_skipped} skipped',
    *(f'{count} {flag}' for flag, count in flag_counts),
    sep=', ',
  )


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flag.define(TrainConfig)
  flags.DEFINE_string('input', None, 'a prepared folder or a manifest')
  flags.DEFINE_string('output', None, 'folder for the targets')
  flags.DEFINE_integer(
    'shard_size', 512, 'targets per shard, for a manifest', lower_bound=1
  )
  flags.DEFINE_float(
    'max_skipped', 0.1, 'share of the transcripts that may be skipped', 0, 1
  )
  flags.DEFINE_bool(
    'inspect', False, 'show the contents of --output and verify its checksums'
  )
  flags.mark_flags_as_required(['output'])
  program.run(main)
