# SPDX-License-Identifier: Apache-2.0
"""Program: store the parameters of a safetensors file in half precision.

  python -m acl_jax.weights.halve --input=run/adapter.safetensors --output=half

Halves what is shipped: an adapter, or the low-rank updates of an encoder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from acl_jax.runtime import program
from acl_jax.weights import safetensors
from acl_jax.weights.tensor import Tensor, cast_floats


def halve(source: Path, target: Path) -> None:
  """Convert floating-point tensors to float16; others and the metadata stay.

  ValueError if the file is damaged, or a value is not finite in float16.
  """
  safetensors.verify_checksum(source)
  metadata = safetensors.read_metadata(source)
  metadata.pop(safetensors.SHA256, None)
  tensors = []
  for name, tensor in safetensors.read_file(source, dtypes=safetensors.DTYPES).items():
    array = cast_floats(tensor.read(), np.float16, f'{source}: {name}')
    tensors.append((name, Tensor.from_array(array)))
  target.parent.mkdir(parents=True, exist_ok=True)
  safetensors.write_file(target, tensors, metadata)


def main(argv: Sequence[str]) -> None:
  """Convert the file that the flags name."""
  del argv
  halve(Path(flags.FLAGS.input), Path(flags.FLAGS.output))
  print(f'halve: {flags.FLAGS.output}', flush=True)


if __name__ == '__main__':
  flags.DEFINE_string('input', None, 'a safetensors file')
  flags.DEFINE_string('output', None, 'the file to write')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
