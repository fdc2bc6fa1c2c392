# SPDX-License-Identifier: Apache-2.0
"""Overview of a folder of targets for a human reader, and a check of its checksums."""

from pathlib import Path

import numpy as np
from rich.console import Console

from acl_jax.runtime.files import sha256
from acl_jax.runtime.terminal import print_fields, print_histogram, printable
from acl_jax.targets.manifests import manifest_path, read_manifest
from acl_jax.targets.store import Targets
from data_pipeline.container import RecordError

MAX_SAMPLES = 5
MAX_BINS = 12


def print_overview(folder: Path) -> None:
  """Print counts, a histogram and samples; RecordError for a damaged shard."""
  targets, console = Targets(folder), Console(highlight=False)
  provenance = targets.provenance
  counts = targets.flag_counts()
  tokens = targets.tokens
  chosen = np.bincount(targets.instruction, minlength=len(targets.instructions))
  fields = {
    'responses': f'{len(targets):,}, {targets.num_skipped:,} skipped',
    'flags': ', '.join(f'{n:,} {name or "none"}' for name, n in counts.most_common()),
    'tokens': f'{tokens.sum():,}, {tokens.mean():.1f} a response',
    'instructions': ', '.join(
      f'{count:,} {instruction!r}'
      for instruction, count in zip(targets.instructions, chosen, strict=True)
    ),
  }
  for key in ('code', 'llm', 'template', 'decoding', 'corpus'):
    fields[key] = str(provenance[key])
  print_fields(console, fields)
  print_histogram(console, length_histogram(tokens))
  count = len(targets)
  for row in np.linspace(0, count - 1, min(MAX_SAMPLES, count)).astype(int).tolist():
    target = targets.read_row(row)
    console.print()
    print_fields(
      console,
      {key: target[key] for key in ('id', 'instruction', 'transcript', 'text', 'flag')},
    )
  verify_checksums(targets)
  console.print(f'\nall {len(targets.paths)} checksums are correct')


def length_histogram(tokens: np.ndarray) -> list[tuple[str, int]]:
  """Return (range, count) of lengths in tokens, in at most MAX_BINS ranges."""
  width = int(tokens.max()) // MAX_BINS + 1
  counts = np.bincount(tokens // width).tolist()
  return [
    (f'{i * width} to {(i + 1) * width - 1}', count) for i, count in enumerate(counts)
  ]


def verify_checksums(targets: Targets) -> None:
  """Raise RecordError for a shard that differs from its manifest's checksum."""
  for path in targets.paths:
    if sha256(path) != read_manifest(manifest_path(path))['sha256']:
      raise RecordError(f'{printable(str(path))}: changed since it was written')
