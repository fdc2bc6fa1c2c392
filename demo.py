# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end, small: `make demo`.

Each step prints the command it runs. What is done is reused: interrupt and run again.

  python demo.py --workdir=runs/demo
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from acl_jax import assets
from data_pipeline.join import join

CONFIG = 'configs/demo.py'
RECORDINGS = Path('data_pipeline/recordings')
ANSWERED = 3  # questions, in the terminal
SPOKEN = (  # by the embedded voice, beside the human recordings
  'How many days are in a week?',
  'Tell me a story about a dog and a cat.',
  'What is the opposite of hot?',
  'Please count from one to ten.',
  'The weather was cold and the streets were empty.',
  'Give me three facts about the moon.',
)
UNSEEN = (  # to evaluate on; the shipped adapter never heard this voice nor these lines
  'What is the capital of France?',
  'What is the largest planet in the solar system?',
  'Can you explain what a computer is?',
  'How do I make a good cup of tea?',
  'Who wrote the play about Romeo and Juliet?',
  'What color is the sky on a clear day?',
  'Tell me about the history of bread.',
  'Why do birds fly south in the winter?',
  'What should I eat for breakfast?',
  'Name three animals that live in the ocean.',
  'She opened the window and looked at the garden.',
  'He forgot his umbrella at the station again.',
)


def main() -> None:
  """Runs the steps in order and says where the results are."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', type=Path, default=Path('runs/demo'))
  demo = parser.parse_args().workdir
  started = time.monotonic()
  demo.mkdir(parents=True, exist_ok=True)

  step('1. The embedded models: a chat LLM, Whisper base and a voice')
  # A process of its own, as for every step: what it loads goes when it ends.
  run('-c', 'from acl_jax import assets; print(*map(assets.fetch, assets.ASSETS))')

  step('2. Speech: human recordings that come with the code, and a few lines said here')
  corpus = gather(demo / 'corpus')
  questions = speak(UNSEEN, demo / 'questions')
  run('-m', 'data_pipeline.prepare', '--corpus=manifest', f'--input={corpus}',
      f'--output={demo}/prepared')  # fmt: skip

  step('3. The answers to imitate: the frozen LLM reads the transcripts, and no audio')
  config = f'--config={CONFIG}'
  run('-m', 'acl_jax.decode_targets', config, f'--input={demo}/prepared',
      f'--output={demo}/targets')  # fmt: skip

  step('4. Training from scratch, briefly: watch the loss fall')
  run('-m', 'acl_jax.train', config, f'--workdir={demo}/train',
      f'--config.data.train={demo}/prepared',
      f'--config.data.targets={demo}/targets')  # fmt: skip

  step('5. Evaluation of the shipped adapter, which had hours of this, not minutes')
  run('-m', 'acl_jax.evaluate', config, f'--manifest={questions}',
      f'--output={demo}/report')  # fmt: skip
  show(json.loads((demo / 'report' / 'report.json').read_text()))

  step('6. Spoken questions, answered in text, and the last one as speech')
  for number in reversed(range(ANSWERED)):
    question = demo / 'questions' / 'audio' / f'{number:07d}.flac'
    aloud = [] if number else [f'--speak={demo}/reply.wav']
    print(f'The recording asks: {UNSEEN[number]}', flush=True)
    run('-m', 'acl_jax.chat', config, f'--audio={question}', *aloud)

  minutes = (time.monotonic() - started) / 60
  print(f"""
Done in {minutes:.1f} minutes. Look at
  {demo}/report/report.html   the evaluation, with playable audio
  {question}   the question
  {demo}/reply.wav   the spoken answer
  {demo}/train/metrics.jsonl   the loss of step 4
Try next
  .venv/bin/python -m acl_jax.chat --config={CONFIG}
  .venv/bin/python -m acl_jax.chat --config={CONFIG} --audio=YOUR_RECORDING.wav
""")


def step(title: str) -> None:
  """A headline."""
  print(f'\n=== {title}', flush=True)


def run(*arguments: str) -> None:
  """Runs a program with this Python; its failure is ours."""
  print('$ python', shlex.join(arguments), flush=True)
  code = subprocess.run([sys.executable, *arguments], check=False).returncode
  if code:
    sys.exit(f'demo: that step ended with code {code}; run `make demo` again to go on')


def speak(lines: tuple[str, ...], folder: Path) -> Path:
  """Has the embedded voice say the lines; returns the manifest."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'lines.txt').write_text('\n'.join(lines) + '\n')
  run('-m', 'data_pipeline.synthesize', f'--input={folder}/lines.txt',
      f'--output={folder}', f'--voices=piper:{assets.resolve("asset:joe-voice")}',
      '--variation=0')  # fmt: skip
  return folder / 'manifest.jsonl'


def gather(folder: Path) -> Path:
  """One manifest over the shipped recordings and a few synthesised lines."""
  speak(SPOKEN, folder / 'spoken')
  if not (folder / 'human').exists():
    shutil.copytree(RECORDINGS, folder / 'human.part', dirs_exist_ok=True)
    (folder / 'human.part').rename(folder / 'human')
  return join(['human', 'spoken'], folder / 'manifest.jsonl')


def show(report: dict) -> None:
  """The report's figures as a table."""
  table = Table(title=f'{report["examples"]} unseen questions by an unseen voice')
  table.add_column('the LLM is given')
  for column in ('nats per response token', 'perplexity'):
    table.add_column(column, justify='right')
  nll = report['response_nll']
  names = {
    'text': 'the written question',
    'audio': 'the recording',
    'cascade': "a recogniser's transcript",
    'cascade_ctc': "our encoder's own transcript",
    'shuffled_audio': 'somebody else’s recording',
    'no_prompt': 'nothing',
  }
  for key, name in names.items():
    if nll[key] is not None:
      table.add_row(
        name, f'{nll[key]:.3f}', f'{report["response_perplexity"][key]:.2f}'
      )
  Console().print(table)
  gap = (nll['shuffled_audio'] - nll['audio']) / (nll['shuffled_audio'] - nll['text'])
  print(
    f'The recording closes {gap:.0%} of the gap between the wrong one and the text.'
  )


if __name__ == '__main__':
  main()
