# SPDX-License-Identifier: Apache-2.0
"""A dataset of TFDS in ArrayRecord shards, as TFDS prepared it; without TensorFlow.

The path is the folder with `dataset_info.json`, or a split in it: `tfds/speech/1.0.0`
or `tfds/speech/1.0.0/train`. Features: `id`, `text`, `audio` (one-dimensional Tensor,
int16); optional `speaker`, `lang`, `response`, where '' is none. Samples per second: a
feature `sample_rate`, or this key of `metadata.json` (`tfds.core.MetadataDict`).

There is no index: to list a dataset is to read it through, a record at a time.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from acl_jax.runtime.progress import progress
from data_pipeline import tfds_example
from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance, inside

MAX_JSON = 64 << 20  # bytes
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances in the order of the shards."""
  folder = path if (path / 'dataset_info.json').is_file() else path.parent
  split = None if folder == path else path.name
  info = _json(folder, 'dataset_info.json')
  encoding, has_rate = _check_features(folder)
  rate = None if has_rate else _sample_rate(folder)
  return _items(_shards(folder, info, split), encoding, rate)


def _json(folder: pathlib.Path, name: str) -> dict[str, Any]:
  path = folder / name
  try:
    if path.stat().st_size > MAX_JSON:
      raise ValueError(f'{path}: is over the limit of {MAX_JSON} bytes')
    found = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a TFDS dataset?') from None
  except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f'{path}: is not JSON ({error})') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: is not a JSON object')
  return found


def _check_features(folder: pathlib.Path) -> tuple[str, bool]:
  """How samples are encoded, and whether each record states their rate.

  TFDS would import whatever module features.json names; nothing is imported here.
  """
  path, content = folder / 'features.json', _json(folder, 'features.json')
  match content:
    case {'featuresDict': {'features': dict(features)}}:
      pass
    case _:
      raise ValueError(f'{path}: is not a FeaturesDict')
  for name in ('id', 'text', 'audio'):
    if name not in features:
      there = ', '.join(sorted(features))[:200]
      raise ValueError(f'{path}: has no feature {name}, only {there}')
  match features['audio']:
    case {'pythonClassName': str(kind)} if kind.endswith('.Audio'):
      raise ValueError(
        f'{path}: audio is a tfds.features.Audio, which only TensorFlow opens: build '
        'the dataset with tfds.features.Tensor(shape=(None,), dtype=np.int16)'
      )
    case {'tensor': {'dtype': 'int16', 'shape': {'dimensions': [_]}, **others}}:
      encoding = others.get('encoding', 'none')
    case _:
      raise ValueError(f'{path}: audio is not a one-dimensional Tensor of int16')
  if encoding not in tfds_example.ENCODINGS:
    raise ValueError(f'{path}: audio has an encoding {str(encoding)[:60]!r}')
  return encoding, 'sample_rate' in features


def _sample_rate(folder: pathlib.Path) -> int:
  path = folder / 'metadata.json'
  rate = _json(folder, path.name).get('sample_rate') if path.exists() else None
  if type(rate) is not int:
    raise ValueError(f'{path}: states no sample_rate, and it is no feature either')
  return rate


def _shards(
  folder: pathlib.Path, info: Mapping[str, Any], split: str | None
) -> list[tuple[pathlib.Path, int]]:
  """The files of the split, or of the only one, and how many records each has."""
  path = folder / 'dataset_info.json'
  kind = info.get('fileFormat', 'tfrecord')
  if kind != 'array_record':
    raise ValueError(
      f"{path}: fileFormat is {kind!r}; build it with file_format='array_record'"
    )
  try:
    splits = {str(split['name']): split for split in info['splits']}
    if split is None and len(splits) == 1:
      (split,) = splits
    if split not in splits:
      names = ', '.join(sorted(splits))[:200]
      raise ValueError(f'{folder}: name one of its splits, as {folder}/SPLIT: {names}')
    lengths = [int(length) for length in splits[split].get('shardLengths', ())]
    template = splits[split].get('filepathTemplate', _TEMPLATE)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path}: cannot be read ({error!r})') from None
  if template != _TEMPLATE:
    raise ValueError(f'{path}: filepathTemplate is not {_TEMPLATE}')
  files, total = f'{info.get("name")}-{split}.array_record', len(lengths)
  root = folder.resolve()
  paths = [inside(root, f'{files}-{i:05d}-of-{total:05d}') for i in range(total)]
  for shard, length in zip(paths, lengths, strict=True):
    if (there := len(tfds_example.Shard(shard))) != length:
      raise ValueError(f'{shard}: has {there} records, {length} in dataset_info.json')
  return list(zip(paths, lengths, strict=True))


def _items(
  shards: list[tuple[pathlib.Path, int]], encoding: str, rate: int | None
) -> Iterator[Item]:
  with progress('list', sum(length for _, length in shards)) as advance:
    for path, length in shards:
      shard = tfds_example.Shard(path)
      for number in range(length):
        try:
          item = _utterance(shard[number], path, number, encoding, rate)
        except ValueError as error:
          reason = f'{path} record {number}: {error}'
          item = BadUtterance(f'{path.name}:{number}', 'record', reason)
        yield item
        advance(1)


def _utterance(
  features: Mapping[str, Any],
  path: pathlib.Path,
  number: int,
  encoding: str,
  rate: int | None,
) -> Utterance:
  string = tfds_example.string
  if rate is None:
    stated = string(features, 'sample_rate')
    if not stated.isdecimal() or len(stated) > 9:
      raise ValueError(f'sample_rate is {stated[:60]!r}, not a number')
    rate = int(stated)
  if not (name := string(features, 'id')):
    raise ValueError('id is missing')
  return Utterance(
    name,
    path,
    string(features, 'text'),
    speaker=string(features, 'speaker') or None,
    lang=string(features, 'lang') or None,
    response=string(features, 'response') or None,
    example=(number, rate, encoding),
  )
