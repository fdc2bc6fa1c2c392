# SPDX-License-Identifier: Apache-2.0
r"""Program: speak JSON lines with Kokoro-82M, on one thread.

  echo '{"text": "Hello.", "voice": "af_heart", "rate": 1.0, "path": "x.flac"}' \
      | python -m data_pipeline.kokoro

Each line is written as a FLAC file of 24 kHz; its path is then printed. `synthesize`
runs one such process per core; by itself it is for a first try.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from acl_jax import assets
from acl_jax.runtime import program
from acl_jax.runtime.files import replace_atomically
from data_pipeline.corpus_tools.kokoro import SAMPLE_RATE, Kokoro


def main(argv: Sequence[str]) -> None:
  """Speak the lines of the standard input."""
  del argv
  model = Kokoro(assets.fetch('kokoro'))
  for number, line in enumerate(sys.stdin, 1):
    match _parse(line):
      case {
        'text': str(text),
        'voice': str(voice),
        'rate': float(rate) | int(rate),
        'path': str(path),
      } if 0.25 <= rate <= 4:
        samples = model.speak(text, voice, rate)
      case _:
        raise ValueError(
          f'line {number} is not an object with text, voice, path and a rate of 0.25'
          ' to 4.0'
        )
    with replace_atomically(Path(path)) as temporary:
      soundfile.write(temporary, samples, SAMPLE_RATE, format='FLAC')
    print(path, flush=True)


def _parse(line: str) -> object:
  try:
    return json.loads(line)
  except (ValueError, RecursionError):
    return None


if __name__ == '__main__':
  program.run(main)
