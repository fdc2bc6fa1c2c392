# SPDX-License-Identifier: Apache-2.0
"""A split of a TFDS dataset in ArrayRecord shards, read without TensorFlow.

The path is the folder with `dataset_info.json`, or a split in it: `tfds/speech/1.0.0`
or `tfds/speech/1.0.0/train`. Features: `id`, `text`, `audio` (one-dimensional Tensor,
int16); optional `speaker`, `lang`, `response`, where '' is none. Samples per second: a
feature `sample_rate`, or this key of `metadata.json` (`tfds.core.MetadataDict`).

TFDS has no index, so listing a dataset reads all of it, one record at a time.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from acl_jax.runtime.files import read_json
from acl_jax.runtime.progress import progress
from data_pipeline import tfds_example
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)
from data_pipeline.tfds_example import read_string

_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the shards.

  contained: shards that are links to somewhere else are refused.
  """
  folder = path if (path / 'dataset_info.json').is_file() else path.parent
  split = None if folder == path else path.name
  info = _read_metadata(folder, 'dataset_info.json')
  encoding, has_rate = _check_features(folder)
  rate = None if has_rate else _sample_rate(folder)
  shards = _list_shards(folder, info, split, not contained)
  return _read_shards(shards, encoding, rate)


def _read_metadata(folder: pathlib.Path, name: str) -> dict[str, Any]:
  try:
    return read_json(folder / name)
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{folder / name}: not found; is this a TFDS dataset?'
    ) from None


def _check_features(folder: pathlib.Path) -> tuple[str, bool]:
  """Return the encoding of samples, and whether each record has a sample rate.

  TFDS would import any module named in features.json; this imports none.
  """
  path, content = folder / 'features.json', _read_metadata(folder, 'features.json')
  match content:
    case {'featuresDict': {'features': dict(features)}}:
      pass
    case _:
      raise ValueError(f'{path}: is not a FeaturesDict')
  for name in ('id', 'text', 'audio'):
    if name not in features:
      known = ', '.join(sorted(features))[:200]
      raise ValueError(f'{path}: has no feature {name}, only {known}')
  match features['audio']:
    case {'pythonClassName': str(kind)} if kind.endswith('.Audio'):
      raise ValueError(
        f'{path}: audio is a tfds.features.Audio, which only TensorFlow can read; build'
        ' the dataset with tfds.features.Tensor(shape=(None,), dtype=np.int16)'
      )
    case {'tensor': {'dtype': 'int16', 'shape': {'dimensions': [_]}, **others}}:
      encoding = others.get('encoding', 'none')
    case _:
      raise ValueError(f'{path}: audio is not a one-dimensional Tensor of int16')
  if encoding not in tfds_example.ENCODINGS:
    known = ', '.join(tfds_example.ENCODINGS)
    raise ValueError(
      f'{path}: audio has the encoding {str(encoding)[:60]!r}; known: {known}'
    )
  return encoding, 'sample_rate' in features


def _sample_rate(folder: pathlib.Path) -> int:
  path = folder / 'metadata.json'
  rate = _read_metadata(folder, path.name).get('sample_rate') if path.exists() else None
  if type(rate) is not int:
    raise ValueError(
      f'{path}: has no integer sample_rate, and there is no feature sample_rate either'
    )
  return rate


def _list_shards(
  folder: pathlib.Path, info: Mapping[str, Any], split: str | None, follow_links: bool
) -> list[tuple[pathlib.Path, int]]:
  """Return the files of a split and their numbers of records.

  split: may be None if there is only one.
  """
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
      raise ValueError(f'{folder}: choose a split with {folder}/SPLIT: {names}')
    lengths = [int(length) for length in splits[split].get('shardLengths', ())]
    template = splits[split].get('filepathTemplate', _TEMPLATE)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path}: cannot be read ({error!r})') from None
  if template != _TEMPLATE:
    raise ValueError(f'{path}: filepathTemplate is not {_TEMPLATE}')
  files, total = f'{info.get("name")}-{split}.array_record', len(lengths)
  root = folder.resolve()
  names = (f'{files}-{i:05d}-of-{total:05d}' for i in range(total))
  paths = [resolve_inside(root, name, follow_links) for name in names]
  for shard, length in zip(paths, lengths, strict=True):
    if (count := len(tfds_example.Shard(shard))) != length:
      raise ValueError(
        f'{shard}: has {count} records, but {length} in dataset_info.json'
      )
  return list(zip(paths, lengths, strict=True))


def _read_shards(
  shards: list[tuple[pathlib.Path, int]], encoding: str, rate: int | None
) -> Iterator[AnyUtterance]:
  with progress('list', sum(length for _, length in shards)) as advance:
    for path, length in shards:
      shard = tfds_example.Shard(path)
      for number in range(length):
        try:
          utterance = _make_utterance(shard[number], path, number, encoding, rate)
        except ValueError as error:
          reason = f'{path} record {number}: {error}'
          utterance = BadUtterance(f'{path.name}:{number}', 'record', reason)
        yield utterance
        advance(1)


def _make_utterance(
  features: Mapping[str, Any],
  path: pathlib.Path,
  number: int,
  encoding: str,
  rate: int | None,
) -> Utterance:
  if rate is None:
    digits = read_string(features, 'sample_rate')
    if not digits.isdecimal() or len(digits) > 9:
      raise ValueError(f'sample_rate is {digits[:60]!r}, not a number')
    rate = int(digits)
  if not (id := read_string(features, 'id')):
    raise ValueError('id is missing')
  return Utterance(
    id,
    path,
    read_string(features, 'text'),
    speaker=read_string(features, 'speaker') or None,
    lang=read_string(features, 'lang') or None,
    response=read_string(features, 'response') or None,
    example=(number, rate, encoding),
  )
