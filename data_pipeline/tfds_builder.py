# SPDX-License-Identifier: Apache-2.0
"""Program: convert a prepared folder to a TFDS dataset.

  python -m data_pipeline.tfds_builder --input=prepared --output=tfds/speech/1.0.0
  tfds.data_source('speech', data_dir='tfds', split='train')

The dataset opens without TensorFlow and without this package. Each prepared shard
becomes one shard with the same records in the same order, so a stopped run resumes at
the next shard. TFDS's own `download_and_prepare` is not used: it holds up to a gigabyte
in memory and sorts larger datasets with TensorFlow.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from acl_jax.runtime import program
from acl_jax.runtime.progress import progress
from data_pipeline import records

READ_BATCH = 8  # records in memory at a time


def make_features() -> tfds.features.FeaturesDict:
  """Return the features of a record; unknown strings are empty.

  Samples are stored as bytes: TFDS's default, integers of variable length, takes three
  times the space and a hundred times as long. `tfds.features.Audio` requires TensorFlow
  even for reading, so the sample rate is in `metadata.json` instead.
  """
  audio = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding='bytes')
  strings = {name: tfds.features.Text() for name in records.UTTERANCE_FIELDS}
  return tfds.features.FeaturesDict({'audio': audio, **strings})


def build(folder: str | Path, output: str | Path, split: str = 'train') -> int:
  """Write the prepared `folder` as one split of the dataset in `output`.

  Other splits of the dataset are kept. Returns the number of examples; ValueError if
  this split of `output` is made from other shards.
  """
  folder, output = Path(folder), Path(output)
  dataset = records.Dataset(folder)
  name = _dataset_name(output)
  if not re.fullmatch('[A-Za-z0-9]+', split):
    raise ValueError(f'--split={split} must consist of letters and digits')
  shards = dataset.info['shards']
  counts = [int(shard['examples']) for shard in shards]
  prefix, total = f'{name}-{split}.array_record', len(shards)
  paths = [output / f'{prefix}-{i:05d}-of-{total:05d}' for i in range(total)]
  _record_source(output, prefix, {'source': [shard['sha256'] for shard in shards]})

  features, first = make_features(), 0
  with progress('tfds_builder', len(dataset)) as advance:
    for path, count in zip(paths, counts, strict=True):
      if not path.exists():
        records.write_shard(path, _serialize_examples(dataset, features, first, count))
      first += count
      advance(count)
  _write_metadata(output, features, split, paths, counts)
  return first


def _dataset_name(output: Path) -> str:
  """Return NAME of a folder NAME/VERSION, which is TFDS's layout, else 'speech'."""
  output = output.absolute()
  has_version = re.fullmatch(r'\d+\.\d+\.\d+', output.name)
  name = output.parent.name if has_version else 'speech'
  if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name):
    raise ValueError(
      f'{output}: dataset name {name!r} must consist of letters, digits and _'
    )
  return name


def _record_source(output: Path, prefix: str, source: dict[str, Any]) -> None:
  """Write the source of a split; ValueError if the split has another source."""
  path = output / f'{prefix}.source.json'
  try:
    existing = json.loads(path.read_text())
  except (FileNotFoundError, ValueError):
    existing = None
  if existing != source and (existing or any(output.glob(f'{prefix}-*'))):
    raise ValueError(
      f'{output}: its {prefix} is made from other shards; delete it or choose another'
      ' --output or --split'
    )
  output.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(source, indent=2) + '\n')


def _serialize_examples(
  dataset: records.Dataset, features: tfds.features.FeaturesDict, first: int, count: int
) -> Iterator[bytes]:
  """Yield the serialized examples of one shard."""
  serializer = ExampleSerializer(features.get_serialized_info())
  for start in range(first, first + count, READ_BATCH):
    indices = range(start, min(start + READ_BATCH, first + count))
    for utterance in dataset.__getitems__(indices):
      example = {name: utterance[name] or '' for name in records.UTTERANCE_FIELDS}
      example['audio'] = np.round(utterance['audio'] * 32768).astype(np.int16)
      yield serializer.serialize_example(features.encode_example(example))


def _write_metadata(
  output: Path,
  features: tfds.features.FeaturesDict,
  split: str,
  paths: Sequence[Path],
  lengths: Sequence[int],
) -> None:
  splits = {}
  if (output / 'dataset_info.json').exists():
    splits = dict(tfds.builder_from_directory(str(output)).info.splits)
  size = sum(path.stat().st_size for path in paths)
  splits[split] = tfds.core.SplitInfo(
    name=split, shard_lengths=list(lengths), num_bytes=size
  )
  tfds.folder_dataset.write_metadata(
    data_dir=str(output),
    features=features,
    split_infos=[splits[name] for name in sorted(splits)],
    description='Utterances: 16-bit mono audio and its transcript.',
    metadata=tfds.core.MetadataDict(sample_rate=records.SAMPLE_RATE),
    check_data=False,  # the check requires TensorFlow
  )


def main(argv: Sequence[str]) -> None:
  """Run `build` with the flags."""
  del argv
  args = flags.FLAGS
  count = build(args.input, args.output, args.split)
  print(f'tfds_builder: {count} examples, split {args.split}, in {args.output}')


if __name__ == '__main__':
  flags.DEFINE_string('input', None, 'the prepared folder')
  flags.DEFINE_string('output', None, 'folder of the dataset: NAME/VERSION, or any')
  flags.DEFINE_string('split', 'train', 'split of the dataset to write')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
