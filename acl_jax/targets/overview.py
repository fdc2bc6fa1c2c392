# SPDX-License-Identifier: Apache-2.0
"""What a folder of targets holds, printed for a person, and whether it is whole."""

from pathlib import Path

import numpy as np
from rich.console import Console

from acl_jax.runtime.files import sha256
from acl_jax.runtime.terminal import print_fields, print_histogram, printable
from acl_jax.targets.store import Targets
from data_pipeline.container import RecordError

SAMPLES = 5
BINS = 12  # of the histogram, at most


def print_overview(folder: Path) -> None:
  """Prints facts, a histogram and some responses; RecordError for a broken shard."""
  targets, console = Targets(folder), Console(highlight=False)
  made_by = targets.provenance
  flags = targets.flags()
  tokens, asked = targets.lengths([*targets])
  print_fields(
    console,
    {
      'responses': f'{len(targets):,}, {len(targets.skipped):,} skipped',
      'flags': ', '.join(f'{n:,} {name or "none"}' for name, n in flags.most_common()),
      'tokens': f'{tokens.sum():,}, {tokens.mean():.1f} a response',
      'instructions': ', '.join(
        f'{asked.count(one):,} {one!r}' for one in targets.instructions
      ),
      **{key: str(made_by[key]) for key in ('code', 'llm', 'template', 'decoding')},
      'corpus': str(made_by['corpus']),
    },
  )
  print_histogram(console, histogram(tokens))
  ids = [*targets]
  for place in np.linspace(0, len(ids) - 1, min(SAMPLES, len(ids))).astype(int):
    target = targets[ids[place]]
    console.print()
    print_fields(
      console,
      {key: target[key] for key in ('id', 'instruction', 'transcript', 'text', 'flag')},
    )
  check_shards(targets)
  console.print(f'\nall {len(targets.paths)} checksums are right')


def histogram(tokens: np.ndarray) -> list[tuple[str, int]]:
  """(range, count) of lengths in tokens, in at most BINS ranges."""
  width = int(tokens.max()) // BINS + 1
  counts = np.bincount(tokens // width).tolist()
  return [
    (f'{i * width} to {(i + 1) * width - 1}', count) for i, count in enumerate(counts)
  ]


def check_shards(targets: Targets) -> None:
  """RecordError if a shard is not as it was written."""
  for path, note in zip(targets.paths, targets.notes, strict=True):
    if sha256(path) != note['sha256']:
      raise RecordError(f'{printable(str(path))}: changed since it was written')
