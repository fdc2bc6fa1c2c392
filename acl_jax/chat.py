# SPDX-License-Identifier: Apache-2.0
"""Program: talk to a trained model, once or in a conversation.

  python -m acl_jax.chat --config=configs/smol.py --audio=q.wav
  python -m acl_jax.chat --config=configs/smol.py --text='What is the capital of Spain?'
  python -m acl_jax.chat --config=configs/smol.py

Both flags together make one turn: the audio, then the text. In a conversation a word
that begins with @ names an audio file: `@q.wav Now answer in one word.` With
--speak=reply.wav the reply is also synthesised, by the embedded voice.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from acl_jax import assets
from acl_jax.assistant import load
from acl_jax.config.experiment import parse_train
from acl_jax.conversation import Clip, Conversation
from acl_jax.runtime import compilation_cache, program
from data_pipeline import audio


def speak(text: str, path: Path) -> None:
  """Synthesise a text into a wav file with the embedded voice; piper is a program."""
  if find_spec('piper') is None:
    raise FileNotFoundError("--speak needs piper: pip install 'acl_jax[demo]'")
  command = [sys.executable, '-m', 'piper', '-f', str(path)]
  command += ['-m', str(assets.resolve('asset:joe-voice'))]
  done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
  if done.returncode or not path.is_file():
    reason = ' '.join(done.stderr.decode(errors='replace').strip().splitlines()[-1:])
    raise OSError(f'{path}: piper cannot synthesise the reply ({reason})')


def take_turn(conversation: Conversation, content: Sequence[str | Clip]) -> str:
  """Print the reply to a turn while it is decoded; returns all of it."""
  values, reply = flags.FLAGS, ''
  for piece in conversation.stream(
    content, max_new_tokens=values.max_new_tokens, temperature=values.temperature
  ):
    print(piece, end='', flush=True)
    reply += piece
  print(flush=True)
  return reply


def parse_turn(line: str) -> list[str | Clip]:
  """Split a typed line into text and clips, a clip for each `@file`."""
  content: list[str | Clip] = []
  for word in line.split():
    if word.startswith('@'):
      content.append(Clip(word[1:]))
    elif content and isinstance(content[-1], str):
      content[-1] += f' {word}'
    else:
      content.append(word)
  return content


def converse(conversation: Conversation) -> None:
  """Answer the lines that are typed; an error ends a turn, not the conversation."""
  print('Type, or name audio with @file.wav. Ctrl-D ends.', file=sys.stderr)
  while True:
    try:
      content = parse_turn(input('you> '))
    except EOFError:
      return
    if not content:
      continue
    try:
      take_turn(conversation, content)
    except (ValueError, OSError) as error:
      print(f'error: {program.error_message(error)}', file=sys.stderr)


def main(argv: Sequence[str]) -> None:
  """Answer once, or converse."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  values = flags.FLAGS
  if values.audio:  # fail before the model is loaded
    audio.read(values.audio)
  assistant = load(parse_train(values.config), values.checkpoint)
  conversation = assistant.conversation(values.seed)
  content = [Clip(values.audio)] if values.audio else []
  content += [values.text] if values.text else []
  if not content:
    return converse(conversation)
  reply = take_turn(conversation, content)
  if values.speak:
    speak(reply, Path(values.speak))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string(
    'checkpoint',
    None,
    'a workdir, an adapter file or an exported folder; default: the shipped adapter',
  )
  flags.DEFINE_string('audio', '', 'audio file of the question')
  flags.DEFINE_string('text', '', 'the question, or an instruction about the audio')
  flags.DEFINE_string('speak', '', 'wav file for the synthesised reply')
  flags.DEFINE_integer(
    'max_new_tokens', 128, 'limit of a reply, in tokens', lower_bound=1
  )
  flags.DEFINE_float('temperature', 0.0, 'of sampling; 0 is greedy', lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'of sampling')
  flags.mark_flag_as_required('config')
  program.run(main)
