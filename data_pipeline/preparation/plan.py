# SPDX-License-Identifier: Apache-2.0
"""The utterances of a corpus, listed on disk in parts that become shards.

Each part is a file of JSON lines, so the program and the workers hold only one part in
memory, however large the corpus is.
"""

import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.corpora.utterance import AnyUtterance, from_json

MAX_PARTS = 99_999  # shard names have five digits
_LOG_INTERVAL = 1_000_000  # utterances


@dataclasses.dataclass(frozen=True)
class Plan:
  """The files `00000.jsonl`, … of a folder, one per part."""

  folder: Path
  parts: int
  utterances: int

  def read(self, part: int) -> list[AnyUtterance]:
    """Read the utterances of one part."""
    lines = _part_path(self.folder, part).read_text(encoding='utf-8').splitlines()
    return [from_json(json.loads(line)) for line in lines]


def plan_shards(utterances: Iterable[AnyUtterance], folder: Path, size: int) -> Plan:
  """Write the utterances to parts of `size`; creates no folder if there are none."""
  shutil.rmtree(folder, ignore_errors=True)
  utterances, num_parts, count = iter(utterances), 0, 0
  while part := list(itertools.islice(utterances, size)):
    if num_parts == MAX_PARTS:
      raise ValueError(
        f'--shard_size={size} makes more than {MAX_PARTS} shards; increase it'
      )
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(vars(utterance), default=str) + '\n' for utterance in part]
    _part_path(folder, num_parts).write_text(''.join(lines), encoding='utf-8')
    previous, count = count, count + len(part)
    if previous // _LOG_INTERVAL < count // _LOG_INTERVAL:
      print(f'prepare: {count} utterances listed', file=sys.stderr, flush=True)
    num_parts += 1
  return Plan(folder, num_parts, count)


def _part_path(folder: Path, part: int) -> Path:
  return folder / f'{part:05d}.jsonl'
