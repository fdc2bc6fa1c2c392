# SPDX-License-Identifier: Apache-2.0
"""Program: talk to a trained model, once or in a conversation.

  python -m acl_jax.chat --config=configs/smol.py --audio=q.wav
  python -m acl_jax.chat --config=configs/smol.py --text='What is the capital of Spain?'
  python -m acl_jax.chat --config=configs/smol.py

Both flags together make one turn: the audio, then the text. In a conversation a word
that begins with @ names an audio file: `@q.wav Now answer in one word.` With
--microphone the Enter key records a turn. `/new` starts again, `/save FILE` writes the
turns as JSON lines. With --speak=reply.wav the embedded voice speaks the reply while it
is generated: into the file, and aloud where sounddevice is installed.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax import assets, audio_devices
from acl_jax.assistant import load
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.conversation import Clip
from acl_jax.runtime import compilation_cache, config_flag, program
from acl_jax.serving.voice import Voice
from acl_jax.terminal import Terminal
from data_pipeline import audio


def main(argv: Sequence[str]) -> None:
  """Answer once, or converse."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  values = flags.FLAGS
  config = parse_train(values.config)
  content = [Clip(values.audio)] if values.audio else []
  content += [values.text] if values.text else []
  if values.audio:  # fail before the model is loaded
    audio.read(values.audio)
  if values.microphone:
    if content:
      raise ValueError('--microphone is for a conversation: omit --audio and --text')
    audio_devices.open_sounddevice()
  with contextlib.ExitStack() as stack:
    speaker = None
    if values.speak:
      speaker = audio_devices.Speaker(Voice(), Path(values.speak))
      stack.enter_context(speaker)
    assistant = load(config, values.checkpoint)
    terminal = Terminal(
      lambda: assistant.conversation(values.seed),
      speaker,
      values.microphone,
      max_new_tokens=values.max_new_tokens,
      temperature=values.temperature,
      needs_speech=True,
    )
    if content:
      terminal.take_turn(content)
    else:
      terminal.converse()


if __name__ == '__main__':
  config_flag.define(TrainConfig)
  flags.DEFINE_string(
    'checkpoint',
    None,
    'a workdir, an adapter file or an exported folder; default: the shipped adapter',
  )
  flags.DEFINE_string('audio', '', 'audio file of the question')
  flags.DEFINE_string('text', '', 'the question, or an instruction about the audio')
  flags.DEFINE_string('speak', '', 'wav file for the spoken reply, also played')
  flags.DEFINE_bool('microphone', False, 'record turns by the Enter key')
  flags.DEFINE_integer(
    'max_new_tokens', 128, 'limit of a reply, in tokens', lower_bound=1
  )
  flags.DEFINE_float('temperature', 0.0, 'of sampling; 0 is greedy', lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'of sampling')
  flags.mark_flag_as_required('config')
  program.run(main)
