# SPDX-License-Identifier: Apache-2.0
"""Stored responses: the folder that `decode_targets` writes and training reads.

It holds `targets-00000-of-0000N.array_record`, `index.jsonl` (the id of each record, in
order) and `provenance.json`: which LLM answered what, and how.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from acl_jax.assembly import Text
from acl_jax.models.llama import Llama
from data_pipeline.container import RecordError, unpack
from data_pipeline.records import Shards

NAME = 'targets'
SCHEMA_VERSION = 2
CHUNK = 1_024  # records read at once


class Targets(Mapping[str, dict[str, Any]]):
  """The responses of a finished folder, by the id of the example.

  A dict each: id, transcript, instruction, text of the response, finish_reason ('stop'
  or 'length'), prompt_fingerprint, response int32 [u] with its stop token, log_probs
  float32 [u] and, where they were asked for, the likeliest tokens top_ids int32 [u k],
  top_log_probs float16 [u k].
  """

  def __init__(self, folder: str | Path):
    folder = Path(folder)
    self.folder, self.provenance = folder, read_provenance(folder)
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
      raise RecordError(
        f'{self._shards.locate(row)}: id is not {id!r}, as in the index'
      )
    return header | arrays

  def check(self, llm: Mapping[str, Any], text: Text) -> None:
    """ValueError if another LLM gave the responses, or was asked in another way.

    llm: what `describe` says of it.
    """
    ours = {'llm': llm, 'template': describe_template(text)}
    _same(self.folder, self.provenance, ours, 'run decode_targets with this config')

  def read(self, id: str, text: str) -> dict[str, Any]:
    """The response to a transcript; RecordError if it was made from another."""
    target = self[id]
    if target['transcript'] != text:
      raise RecordError(
        f'{self._shards.locate(self._rows[id])}: {id!r} answers'
        f' {target["transcript"]!r}; the transcript is {text!r}'
      )
    return target

  @property
  def instructions(self) -> list[str]:
    """All that were given; in them `{}` is the transcript, or the recording."""
    return [asked for asked, _ in self.provenance['decoding']['instructions']]

  def lengths(self, ids: Sequence[str]) -> tuple[Int[np.ndarray, ' n'], list[str]]:
    """The tokens of each response, 0 where there is none, and each instruction."""
    known = sorted({self._rows[id] for id in ids if id in self})
    said: dict[int, tuple[int, str]] = {}
    for start in range(0, len(known), CHUNK):
      rows = known[start : start + CHUNK]
      for row, record in zip(rows, self._shards.__getitems__(rows), strict=True):
        header, arrays = unpack(record)
        said[row] = len(arrays['response']), header['instruction']
    nothing = 0, self.instructions[0]
    found = [said.get(self._rows.get(id, -1), nothing) for id in ids]
    return np.asarray([u for u, _ in found]), [asked for _, asked in found]

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
    version = provenance['schema_version']
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path}: not found; is this a folder of targets?'
    ) from None
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path}: cannot be read ({error!r})') from None
  if version != SCHEMA_VERSION:
    raise ValueError(
      f'{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}'
    )
  return provenance


def claim(folder: Path, provenance: Mapping[str, Any], ids: Sequence[str]) -> None:
  """Makes `folder` the place of these targets; ValueError if it is that of others."""
  path = folder / 'provenance.json'
  if path.exists():
    hint = 'choose another folder, or delete this one'
    return _same(folder, read_provenance(folder), provenance, hint)
  folder.mkdir(parents=True, exist_ok=True)
  index = ''.join(json.dumps({'id': id}) + '\n' for id in ids)
  _write(folder / 'index.jsonl', index)
  _write(path, json.dumps(provenance, indent=2) + '\n')  # last: it vouches for the rest


def _same(folder: Path, there: Mapping, ours: Mapping, hint: str) -> None:
  """Refuses targets that were made in another way than ours."""
  for key, value in ours.items():
    if there.get(key) != value:
      raise ValueError(
        f'{folder}: holds targets of another {key}, {_short(there.get(key))}, not of '
        f'{_short(value)}; {hint}'
      )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 200 else f'{text[:200]}…'


def _write(path: Path, text: str) -> None:
  """Writes a file whole or not at all."""
  temporary = path.with_name(f'{path.name}.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def fingerprint(parts: Iterable[bytes | memoryview]) -> str:
  """A name for some bytes: their sha256."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()


def describe_template(text: Text) -> dict[str, str]:
  """Its name, and what it makes of a probe: the same name may frame differently."""
  frame = json.dumps(text.prompt('probe')).encode()
  return {'name': text.template.__name__, 'sha256': fingerprint([frame])}


def describe(llama: Llama) -> dict[str, Any]:
  """What a provenance says of the LLM: its size and the sha256 of its parameters."""
  leaves = jax.tree_util.tree_leaves_with_path(llama)

  def parts() -> Iterator[bytes | memoryview]:
    for path, value in leaves:
      yield f'{jax.tree_util.keystr(path)} {value.dtype} {value.shape}'.encode()
      yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data

  return {
    'parameters': sum(value.size for _, value in leaves),
    'dtype': str(leaves[0][1].dtype),
    'sha256': fingerprint(parts()),
  }
