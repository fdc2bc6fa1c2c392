# SPDX-License-Identifier: Apache-2.0
"""Stored responses: what `decode_targets` writes and training reads.

A folder of targets holds `targets-00000-of-0000N.array_record`, `index.jsonl` (the id
of each record, in order) and `provenance.json`: which LLM answered what, and how.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from acl_jax.models.llama import Llama
from data_pipeline.container import RecordError, unpack
from data_pipeline.records import Shards

NAME = 'targets'
SCHEMA_VERSION = 1


class Targets(Mapping[str, dict[str, Any]]):
  """The responses of a finished folder by id of the example.

  Each is a dict: id, text, finish_reason ('stop' or 'length'), prompt_fingerprint,
  response int32 [u] with its stop token, log_probs float32 [u], and where they were
  asked for top_ids int32 [u k] and top_log_probs float16 [u k].
  """

  def __init__(self, folder: str | Path):
    folder = Path(folder)
    self.provenance = read_provenance(folder)
    self.max_new_tokens: int = self.provenance['decoding']['max_new_tokens']
    self._shards = Shards(folder, NAME)
    lines = (folder / 'index.jsonl').read_text().splitlines()
    self._rows = {json.loads(line)['id']: row for row, line in enumerate(lines)}
    if len(self._rows) != len(self._shards):
      raise RecordError(
        f'{folder}: {len(self._shards)} records, but {len(self._rows)} in index.jsonl'
      )

  def __getitem__(self, id: str) -> dict[str, Any]:
    row = self._rows[id]
    header, arrays = unpack(self._shards[row])
    if header.get('id') != id:
      raise RecordError(f'{self._shards.locate(row)}: is not of {id!r}')
    return header | arrays

  def __contains__(self, id: object) -> bool:
    return id in self._rows

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __len__(self) -> int:
    return len(self._rows)


def read_provenance(folder: Path) -> dict[str, Any]:
  """Who made the targets in `folder`, and of what."""
  path = folder / 'provenance.json'
  try:
    provenance = json.loads(path.read_text())
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a folder of targets?') from None
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  if provenance.get('schema_version') != SCHEMA_VERSION:
    raise ValueError(
      f'{path}: schema_version is {provenance.get("schema_version")!r}, this program '
      f'reads {SCHEMA_VERSION}'
    )
  return provenance


def claim(folder: Path, provenance: Mapping[str, Any], ids: Sequence[str]) -> None:
  """Makes `folder` the place of these targets; ValueError if it is that of others."""
  if (folder / 'provenance.json').exists():
    _compare(folder, read_provenance(folder), provenance)
    return
  folder.mkdir(parents=True, exist_ok=True)
  lines = ''.join(json.dumps({'id': id}) + '\n' for id in ids)
  # The provenance last: where it stands, the rest is whole.
  for name, text in (
    ('index.jsonl', lines),
    ('provenance.json', json.dumps(provenance, indent=2) + '\n'),
  ):
    (folder / f'{name}.tmp').write_text(text)
    (folder / f'{name}.tmp').replace(folder / name)


def _compare(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
  for key, value in here.items():
    if there.get(key) != value:
      raise ValueError(
        f'{folder} holds targets of another {key}: {_short(there.get(key))}, '
        f'not {_short(value)}'
      )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 200 else f'{text[:200]}…'


def fingerprint(parts: Iterable[bytes]) -> str:
  """A short name for some bytes."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()[:16]


def llm_fingerprint(llama: Llama) -> str:
  """A name for the weights: equal for equal values in equal dtypes, however stored."""

  def parts() -> Iterator[bytes]:
    for path, value in jax.tree_util.tree_leaves_with_path(llama):
      yield f'{jax.tree_util.keystr(path)} {value.dtype} {value.shape}'.encode()
      yield np.ascontiguousarray(value).view(np.uint8).data

  return fingerprint(parts())
