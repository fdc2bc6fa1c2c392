# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline end to end on a small scale: `make demo`.

Each step prints the command it runs. Finished work is reused, so an interrupted demo
resumes when it is run again.

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
from data_pipeline.corpus_tools.manifests import join_manifests

CONFIG = 'configs/demo.py'  # what is trained
SHIPPED = '--config=configs/smol.py'  # what is evaluated, and answers
RECORDINGS = Path('data_pipeline/recordings')
MODELS = ('smollm2-135m-instruct', 'whisper-base', 'joe-voice')
NUM_ANSWERS = 3  # questions answered in the terminal
TRAINING_LINES = (  # spoken by the embedded voice, in addition to the human recordings
  'How many days are in a week?',
  'Tell me a story about a dog and a cat.',
  'What is the opposite of hot?',
  'Please count from one to ten.',
  'The weather was cold and the streets were empty.',
  'Give me three facts about the moon.',
)
# The shipped adapter was trained on neither this voice nor these lines.
EVALUATION_LINES = (
  'What is the capital of France?',
  'What color is the sky on a clear day?',
  'Can you explain what a computer is?',
  'How do I make a good cup of tea?',
  'Who wrote the play about Romeo and Juliet?',
  'What is the largest planet in the solar system?',
  'Tell me about the history of bread.',
  'Why do birds fly south in the winter?',
  'What should I eat for breakfast?',
  'Name three animals that live in the ocean.',
  'She opened the window and looked at the garden.',
  'He forgot his umbrella at the station again.',
)


def main() -> None:
  """Run the steps in order and print where the results are."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', type=Path, default=Path('runs/demo'))
  demo = parser.parse_args().workdir
  start = time.monotonic()
  demo.mkdir(parents=True, exist_ok=True)

  print_headline('1. The embedded models: a chat LLM, Whisper base and a voice')
  # Every step is a process of its own, which frees its memory when it ends.
  run('-c', f'from acl_jax import assets; print(*map(assets.fetch, {MODELS}))')

  print_headline('2. Speech: the human recordings in the code, and synthesised lines')
  corpus = make_corpus(demo / 'corpus')
  questions = synthesize(EVALUATION_LINES, demo / 'questions')
  run('-m', 'data_pipeline.prepare', '--corpus=manifest', f'--input={corpus}',
      f'--output={demo}/prepared')  # fmt: skip

  print_headline('3. Training targets: the frozen LLM answers the transcripts')
  config = f'--config={CONFIG}'
  run('-m', 'acl_jax.decode_targets', config, f'--input={demo}/prepared',
      f'--output={demo}/targets')  # fmt: skip

  print_headline('4. A short training run from scratch: watch the loss fall')
  run('-m', 'acl_jax.train', config, f'--workdir={demo}/train',
      f'--config.data.train={demo}/prepared',
      f'--config.data.targets={demo}/targets')  # fmt: skip

  print_headline('5. Evaluation of the shipped model, which was trained for longer')
  run('-m', 'acl_jax.evaluate', SHIPPED, f'--manifest={questions}',
      f'--output={demo}/report')  # fmt: skip
  print_report(json.loads((demo / 'report' / 'report.json').read_text()))

  print_headline('6. Spoken questions, answered in text and the last one in speech')
  for number in reversed(range(NUM_ANSWERS)):
    question = demo / 'questions' / 'audio' / f'{number:07d}.flac'
    speak_flags = [] if number else [f'--speak={demo}/reply.wav']
    print(f'Spoken question: {EVALUATION_LINES[number]}', flush=True)
    run('-m', 'acl_jax.chat', SHIPPED, f'--audio={question}', *speak_flags)

  minutes = (time.monotonic() - start) / 60
  print(f"""
Done in {minutes:.1f} minutes. Results:
  {demo}/report/report.html   the evaluation, with playable audio
  {question}   the last question
  {demo}/reply.wav   its spoken answer
  {demo}/train/metrics.jsonl   the loss of step 4
Next steps:
  .venv/bin/python -m acl_jax.chat {SHIPPED}
  .venv/bin/python -m acl_jax.chat {SHIPPED} --audio=YOUR_RECORDING.wav
""")


def print_headline(title: str) -> None:
  """Print the headline of a step."""
  print(f'\n=== {title}', flush=True)


def run(*arguments: str) -> None:
  """Run a program with this Python; exit if it fails."""
  print('$ python', shlex.join(arguments), flush=True)
  code = subprocess.run([sys.executable, *arguments], check=False).returncode
  if code:
    sys.exit(f'demo: this step exited with code {code}; run `make demo` to resume')


def synthesize(lines: tuple[str, ...], folder: Path) -> Path:
  """Speak the lines with the embedded voice; returns the manifest."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'lines.txt').write_text('\n'.join(lines) + '\n')
  run('-m', 'data_pipeline.synthesize', f'--input={folder}/lines.txt',
      f'--output={folder}', f'--voices=piper:{assets.resolve("asset:joe-voice")}',
      '--variation=0')  # fmt: skip
  return folder / 'manifest.jsonl'


def make_corpus(folder: Path) -> Path:
  """Return one manifest of the shipped recordings and a few synthesised lines."""
  synthesize(TRAINING_LINES, folder / 'spoken')
  if not (folder / 'human').exists():
    shutil.copytree(RECORDINGS, folder / 'human.part', dirs_exist_ok=True)
    (folder / 'human.part').rename(folder / 'human')
  return join_manifests(['human', 'spoken'], folder / 'manifest.jsonl')


def print_report(report: dict) -> None:
  """Print the report's metrics as a table."""
  table = Table(title=f'{report["examples"]} unseen questions by an unseen voice')
  table.add_column('input of the LLM')
  for column in ('nats per response token', 'perplexity'):
    table.add_column(column, justify='right')
  nll = report['response_nll']
  names = {
    'text': 'the written question',
    'audio': 'the spoken question',
    'cascade': "a recogniser's transcript",
    'cascade_ctc': "our encoder's own transcript",
    'shuffled_audio': 'a spoken question of another example',
    'no_prompt': 'nothing',
  }
  for key, name in names.items():
    if nll[key] is not None:
      table.add_row(
        name, f'{nll[key]:.3f}', f'{report["response_perplexity"][key]:.2f}'
      )
  Console().print(table)
  gap = (nll['shuffled_audio'] - nll['audio']) / (nll['shuffled_audio'] - nll['text'])
  print(f'Audio closes {gap:.0%} of the gap between shuffled audio and text.')


if __name__ == '__main__':
  main()
