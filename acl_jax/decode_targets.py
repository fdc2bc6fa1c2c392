# SPDX-License-Identifier: Apache-2.0
"""The frozen LLM's answer to every transcript of a corpus, written once, offline.

  python -m acl_jax.decode_targets --config=configs/smol.py --input=speech --output=out

Only transcripts are read, no audio. A run that was stopped goes on, when run again,
with the first shard that is missing, to the same bytes: a response depends on its own
transcript, and its rounding at most on the longest and the shortest of the corpus.
"""

import collections
import itertools
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from acl_jax import assembly, program
from acl_jax.assembly import Text
from acl_jax.decoding import targets
from acl_jax.decoding.answers import Answers, Decoding, Example
from acl_jax.models.llama import Llama
from acl_jax.text.instructions import choose, written
from data_pipeline import corpora, records
from data_pipeline.corpora.utterance import Utterance

Skip = dict[str, str]  # id, field to blame and reason, of what has no response


def decode_targets(
  llama: Llama,
  text: Text,
  transcripts: Iterable[tuple[str, str]],
  output: str | Path,
  decoding: Decoding,
  *,
  shard_size: int = 512,
  skipped: Sequence[Skip] = (),
  max_skipped: float = 0.1,
) -> targets.Targets:
  """Answers (id, transcript) pairs into a folder of targets; returns its reader.

  skipped: what could not even be read, listed with what cannot be answered.
  ValueError if `output` holds targets of another LLM, template, decoding or corpus, or
  if more than the share `max_skipped` has to be skipped.
  """
  output = Path(output)
  examples, unanswerable = plan(text, transcripts, decoding, decoding.room(llama))
  skipped = [*skipped, *unanswerable]
  _check_share(skipped, len(examples), max_skipped)
  parts = [
    examples[start : start + shard_size]
    for start in range(0, len(examples), shard_size)
  ]
  provenance = {
    'schema_version': targets.SCHEMA_VERSION,
    'llm': targets.describe(llama),
    'template': targets.describe_template(text),
    'decoding': decoding.describe(),
    'corpus': _describe_corpus(examples),
    'shards': len(parts),
    'skipped': skipped,
  }
  targets.claim(output, provenance, [example.id for example in examples])
  missing = {}
  for number, part in enumerate(parts):
    path = output / records.shard_name(targets.NAME, number, len(parts))
    if not path.exists():
      missing[path] = part
  if len(missing) < len(parts):
    _say(f'{len(parts) - len(missing)} of {len(parts)} shards are there already')
  if missing:
    asked = [*itertools.chain(*missing.values())]
    answers = Answers(llama, text.tokenizer, examples, decoding)
    made = answers(asked, _Progress(len(asked)).advance)
    for path, part in missing.items():
      records.write_shard(path, itertools.islice(made, len(part)))
  return targets.Targets(output)


def plan(
  text: Text, transcripts: Iterable[tuple[str, str]], decoding: Decoding, room: int
) -> tuple[list[Example], list[Skip]]:
  """Builds the prompts, of `room` tokens at most; skips what cannot have one."""
  examples: dict[str, Example] = {}
  skipped = []
  for id, transcript in transcripts:
    if id in examples:
      skipped.append({'id': id, 'field': 'id', 'reason': 'not the first of this name'})
      continue
    try:
      instruction = choose(decoding.instructions, id, decoding.seed)
      prompt = _prompt(text, transcript, instruction, room)
      examples[id] = Example(id, transcript, instruction, prompt)
    except ValueError as error:
      skipped.append({'id': id, 'field': 'text', 'reason': str(error)})
  return list(examples.values()), skipped


def _prompt(
  text: Text, transcript: str, instruction: str, room: int
) -> tuple[int, ...]:
  if not transcript.strip():
    raise ValueError('text is empty')
  [prompt] = text.prompt(written(instruction, transcript))
  assert isinstance(prompt, tuple)  # without audio it is one segment
  if len(prompt) > room:
    raise ValueError(
      f'text makes a prompt of {len(prompt)} tokens; the context less the response is '
      f'{room}'
    )
  return prompt


def _check_share(skipped: Sequence[Skip], examples: int, limit: float) -> None:
  for skip in skipped:
    _say(f'skipped {skip["id"]}: {skip["reason"]}')
  total = examples + len(skipped)
  if not examples or len(skipped) > limit * total:
    raise ValueError(
      f'{len(skipped)} of {total} transcripts cannot be answered {_count(skipped)}, '
      f'limit {limit:.1%}: mend them or raise --max_skipped'
    )


def _count(skipped: Sequence[Skip]) -> dict[str, int]:
  return dict(collections.Counter(skip['field'] for skip in skipped).most_common())


def _describe_corpus(examples: Sequence[Example]) -> dict[str, str | int]:
  lines = (json.dumps([example.id, example.text]).encode() for example in examples)
  return {'examples': len(examples), 'sha256': targets.fingerprint(lines)}


def read_transcripts(path: Path) -> tuple[list[tuple[str, str]], list[Skip]]:
  """The (id, text) pairs of a prepared folder or a manifest, and its bad lines."""
  if path.is_dir():
    index = path / 'index.jsonl'
    try:
      lines = [json.loads(line) for line in index.read_text().splitlines()]
      return [(line['id'], line['text']) for line in lines], []
    except FileNotFoundError:
      raise FileNotFoundError(
        f'{index}: not found; --input is a prepared folder or a manifest'
      ) from None
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{index}: cannot be read ({error!r})') from None
  pairs, skipped = [], []
  for item in corpora.open_corpus('manifest', path):
    if isinstance(item, Utterance):
      pairs.append((item.id, item.text))
    else:
      skipped.append({'id': item.id, 'field': item.field, 'reason': item.reason})
  return pairs, skipped


class _Progress:
  """Says every few seconds how far the job is, how fast, and how long it will take."""

  def __init__(self, total: int, every: float = 5.0):
    self.total, self.every = total, every
    self.examples = self.tokens = 0
    self.start = self.said = time.monotonic()

  def advance(self, examples: int, tokens: int) -> None:
    self.examples, self.tokens = self.examples + examples, self.tokens + tokens
    now = time.monotonic()
    if now - self.said < self.every and self.examples < self.total:
      return
    self.said, seconds = now, max(now - self.start, 1e-9)
    left = seconds / self.examples * (self.total - self.examples)
    _say(
      f'{self.examples} of {self.total} responses, '
      f'{self.tokens / seconds:.0f} tokens/s, {left / 60:.1f} minutes left'
    )


def _say(line: str) -> None:
  print(f'decode_targets: {line}', file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> None:
  """Runs `decode_targets` with the flags."""
  del argv
  given = flags.FLAGS
  config: ml_collections.ConfigDict = given.config
  transcripts, skipped = read_transcripts(Path(given.input))
  found = decode_targets(
    assembly.load_frozen_llama(config),
    assembly.load_text(config),
    transcripts,
    given.output,
    Decoding(seed=config.seed, **config.targets),
    shard_size=given.shard_size,
    skipped=skipped,
    max_skipped=given.max_skipped,
  )
  skipped = found.provenance['skipped']
  print(
    f'decode_targets: {len(found)} responses in {given.output}, {len(skipped)} skipped',
    _count(skipped) or '',
  )


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('input', None, 'a prepared folder, or a manifest')
  flags.DEFINE_string('output', None, 'folder of the targets')
  flags.DEFINE_integer('shard_size', 512, 'responses per shard', lower_bound=1)
  flags.DEFINE_float('max_skipped', 0.1, 'share that may be without response', 0, 1)
  flags.mark_flags_as_required(['config', 'input', 'output'])
  program.run(main)
