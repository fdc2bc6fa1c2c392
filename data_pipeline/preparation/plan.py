# SPDX-License-Identifier: Apache-2.0
"""The listing of a corpus, spooled to disk as the parts that become shards.

One file of JSON lines per part: neither this program nor a worker ever holds more than
one part, however large the corpus.
"""

import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.corpora.utterance import Item, from_json

MAX_PARTS = 99_999  # the names of shards have five digits
_TOLD = 1_000_000  # utterances between two lines that say how far the listing is


@dataclasses.dataclass(frozen=True)
class Plan:
  """The files `00000.jsonl`, ... of a folder, one for each of `parts`."""

  folder: Path
  parts: int
  utterances: int

  def read(self, part: int) -> list[Item]:
    """The utterances of one part."""
    lines = _file(self.folder, part).read_text(encoding='utf-8').splitlines()
    return [from_json(json.loads(line)) for line in lines]


def plan_shards(items: Iterable[Item], folder: Path, size: int) -> Plan:
  """Lists `items` in parts of `size`; makes no folder if there are none."""
  shutil.rmtree(folder, ignore_errors=True)
  items, parts, utterances = iter(items), 0, 0
  while part := list(itertools.islice(items, size)):
    if parts == MAX_PARTS:
      raise ValueError(
        f'--shard_size={size} makes more than {MAX_PARTS} shards: raise it'
      )
    folder.mkdir(parents=True, exist_ok=True)
    text = ''.join(json.dumps(vars(item), default=str) + '\n' for item in part)
    _file(folder, parts).write_text(text, encoding='utf-8')
    before, utterances = utterances, utterances + len(part)
    if before // _TOLD < utterances // _TOLD:
      print(f'prepare: {utterances} utterances listed', file=sys.stderr, flush=True)
    parts += 1
  return Plan(folder, parts, utterances)


def _file(folder: Path, part: int) -> Path:
  return folder / f'{part:05d}.jsonl'
