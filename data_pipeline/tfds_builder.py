# SPDX-License-Identifier: Apache-2.0
"""Program: a prepared folder -> a TFDS dataset that opens without TensorFlow or us.

  python -m data_pipeline.tfds_builder --input=prepared --output=tfds/speech/1.0.0
  tfds.data_source('speech', data_dir='tfds', split='train')

Each prepared shard becomes one of the same records in the same order, so a run that was
stopped goes on with the next shard. TFDS's own `download_and_prepare` is not used: it
keeps a gigabyte in memory and sorts what is larger with TensorFlow.
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

BATCH = 8  # records that are held at a time


def features() -> tfds.features.FeaturesDict:
  """What a record holds; a string that is not known is empty.

  The samples are stored as bytes: as the default, integers of variable length, they
  would take three times the space and a hundred times as long. `tfds.features.Audio`
  would need TensorFlow, even to be opened; so the rate is in `metadata.json`.
  """
  audio = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding='bytes')
  strings = {name: tfds.features.Text() for name in records.UTTERANCE}
  return tfds.features.FeaturesDict({'audio': audio, **strings})


def build(folder: str | Path, output: str | Path, split: str = 'train') -> int:
  """Writes the prepared `folder` as one split of the dataset in `output`.

  Other splits that are there stay. Returns the number of examples; ValueError if
  `output` has this split of something else.
  """
  folder, output = Path(folder), Path(output)
  dataset = records.Dataset(folder)
  name = _name(output)
  if not re.fullmatch('[A-Za-z0-9]+', split):
    raise ValueError(f'--split={split} is not made of letters and digits')
  shards = [(int(s['examples']), s['sha256']) for s in dataset.info['shards']]
  total = len(shards)
  files = f'{name}-{split}.array_record'
  paths = [output / f'{files}-{i:05d}-of-{total:05d}' for i in range(total)]
  _claim(output, files, {'source': [sha256 for _, sha256 in shards]})

  made, first = features(), 0
  with progress('tfds_builder', len(dataset)) as advance:
    for path, (count, _) in zip(paths, shards, strict=True):
      if not path.exists():
        records.write_shard(path, _examples(dataset, made, first, count))
      first += count
      advance(count)
  _write_metadata(output, made, split, paths, [count for count, _ in shards])
  return first


def _name(output: Path) -> str:
  """TFDS's own layout is name/version."""
  output = output.absolute()
  versioned = re.fullmatch(r'\d+\.\d+\.\d+', output.name)
  name = output.parent.name if versioned else 'speech'
  if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name):
    raise ValueError(f'{output}: {name!r} is no name for a dataset: letters, digits, _')
  return name


def _claim(output: Path, files: str, source: dict[str, Any]) -> None:
  """Notes what a split is made from; ValueError if it is there from something else."""
  path = output / f'{files}.source.json'
  try:
    there = json.loads(path.read_text())
  except (FileNotFoundError, ValueError):
    there = None
  if there != source and (there or any(output.glob(f'{files}-*'))):
    raise ValueError(
      f'{output}: its {files} is made from something else; delete it or choose another '
      f'--output or --split'
    )
  output.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(source, indent=2) + '\n')


def _examples(
  dataset: records.Dataset, made: tfds.features.FeaturesDict, first: int, count: int
) -> Iterator[bytes]:
  """The serialized examples of one shard."""
  serializer = ExampleSerializer(made.get_serialized_info())
  for start in range(first, first + count, BATCH):
    places = range(start, min(start + BATCH, first + count))
    for utterance in dataset.__getitems__(places):
      samples = np.round(utterance['audio'] * 32768).astype(np.int16)
      strings = {name: utterance[name] or '' for name in records.UTTERANCE}
      yield serializer.serialize_example(
        made.encode_example({'audio': samples, **strings})
      )


def _write_metadata(
  output: Path,
  made: tfds.features.FeaturesDict,
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
    features=made,
    split_infos=[splits[name] for name in sorted(splits)],
    description='Utterances: 16-bit mono audio and what is said in it.',
    metadata=tfds.core.MetadataDict(sample_rate=records.SAMPLE_RATE),
    check_data=False,  # by way of TensorFlow
  )


def main(argv: Sequence[str]) -> None:
  """Runs `build` with the flags."""
  del argv
  given = flags.FLAGS
  count = build(given.input, given.output, given.split)
  print(f'tfds_builder: {count} examples, split {given.split}, in {given.output}')


if __name__ == '__main__':
  flags.DEFINE_string('input', None, 'the prepared folder')
  flags.DEFINE_string('output', None, 'folder of the dataset: NAME/VERSION, or any')
  flags.DEFINE_string('split', 'train', 'which split of the dataset it becomes')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
