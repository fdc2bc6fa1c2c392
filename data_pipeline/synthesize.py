# SPDX-License-Identifier: Apache-2.0
r"""Program: speak text lines with text-to-speech engines and write a manifest.

  python -m data_pipeline.synthesize --input=lines.txt --output=speech \
      --voices=flite:slt,espeak-ng:en-us+f2,piper:asset:joe-voice,kokoro:af_heart

`kokoro:af_bella+bf_emma` is a new voice, the mean of two; kokoro is the most natural
engine and the slowest: about one second of speech per second and core.
The voice, rate and pitch of line i depend on (seed, i) alone. Audio that exists is
kept, so a stopped run resumes.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from data_pipeline.corpora import text_files
from data_pipeline.corpus_tools.engines import Voice
from data_pipeline.corpus_tools.speech import synthesize


def main(argv: Sequence[str]) -> None:
  """Run `synthesize` with the flags."""
  del argv
  args = flags.FLAGS
  voices = [Voice.parse(spec) for spec in args.voices]
  try:
    text = text_files.decode(Path(args.input).read_bytes())
  except ValueError as error:
    raise ValueError(f'{args.input}: {error}') from None
  lines = [line.strip() for line in text.splitlines() if not text_files.is_blank(line)]
  if not lines:
    raise ValueError(f'{args.input}: has no lines of text')
  output = Path(args.output)
  synthesize(lines, voices, output, seed=args.seed, variation=args.variation)
  print(f'synthesize: {len(lines)} lines in {output / "manifest.jsonl"}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_string('input', None, 'text file with one line of speech per line')
  flags.DEFINE_string('output', None, 'folder for audio/ and manifest.jsonl')
  flags.DEFINE_list('voices', None, 'ENGINE:NAME,… of flite, espeak-ng, piper, kokoro')
  flags.DEFINE_integer('seed', 0, 'seed of voices, rates and pitches')
  flags.DEFINE_float('variation', 0.15, 'spread of rate and pitch', 0, 0.5)
  flags.mark_flags_as_required(['input', 'output', 'voices'])
  program.run(main)
