# SPDX-License-Identifier: Apache-2.0
"""Program: talk to a trained model, once or in a conversation.

  python -m acl_jax.chat --config=configs/smol.py --audio=q.wav
  python -m acl_jax.chat --config=configs/smol.py --text='What is the capital of Spain?'
  python -m acl_jax.chat --config=configs/smol.py

Both flags together make one turn: the recording, then the text. In a conversation a
word that begins with @ names a recording: `@q.wav Now answer in one word.` With
--speak=reply.wav the reply is also said, by the embedded voice.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.sampling import Sampling
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.runtime import compilation_cache, program
from acl_jax.runtime.rounding import round_up
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from acl_jax.text.templates import Audio, Turn
from data_pipeline import audio
from data_pipeline.batches import pad, pad_frames
from data_pipeline.features import features

FRAMES = 200  # a recording is padded to a multiple of 2 s: few shapes, few compilations
LENGTH = 32  # and a prompt to a multiple of this
STEPS = 2  # tokens that are shown at once


class Chat:
  """A conversation: what was said so far, and the recordings in it."""

  def __init__(
    self, model: SpeechLLM, text: TextFrontend, *, max_new_tokens: int, seed: int = 0
  ):
    self.model, self.text = model, text
    self.max_new_tokens, self.seed = max_new_tokens, seed
    self.turns: list[Turn] = []
    self.log_mels: list[np.ndarray] = []

  def say(
    self, words: str, recording: str = '', temperature: float = 0.0
  ) -> Iterator[str]:
    """Takes the user's turn, a recording and words or one of them; yields the reply."""
    content: list[str | Audio] = []
    if recording:
      content.append(Audio(len(self.log_mels)))
      self.log_mels.append(self._listen(recording))
    content += [words] if words else []
    self.turns.append(Turn('user', tuple(content)))
    reply = ''
    for piece in self._answer(temperature):
      reply += piece
      yield piece
    self.turns.append(Turn('assistant', reply))

  def _listen(self, recording: str) -> np.ndarray:
    encoder = self.model.encoder.config
    sound, limit = audio.read(recording), encoder.max_frames
    log_mel = features(encoder.features).log_mel(sound, encoder.num_mel_bins)
    if len(log_mel) > limit:
      raise ValueError(
        f'{recording}: {len(log_mel) / 100:.1f} s; the encoder hears {limit // 100} s'
      )
    return log_mel

  def _answer(self, temperature: float) -> Iterator[str]:
    """The reply's text as it grows, never in the middle of a character."""
    prompt = self._embed()
    rules = DecodeRules(
      self.text.tokenizer.stop_ids, Sampling(temperature), steps=STEPS
    )
    length = round_up(len(prompt), LENGTH)
    config = EngineConfig(1, length, self.max_new_tokens, rules)
    self.seed, seed = self.seed + 1, self.seed
    engine = Engine(self.model.llama, config, seed=seed)
    ids, shown = [], ''
    for token in engine.stream([Request('reply', prompt)]):
      ids.append(token.id)
      text = self.text.tokenizer.decode(ids)
      if not text.endswith('\N{REPLACEMENT CHARACTER}'):
        yield text[len(shown) :]
        shown = text

  def _embed(self) -> np.ndarray:
    """The conversation so far as the LLM's input [t d]."""
    heard, heard_valid = _no_audio(self.model)
    if self.log_mels:
      length = round_up(max(map(len, self.log_mels)), FRAMES)
      padded = pad_frames(self.log_mels, len(self.log_mels), length)
      heard, heard_valid = _hear(self.model, *map(jnp.asarray, padded))
    slots = heard.shape[1]
    clips = [range(i * slots, (i + 1) * slots) for i in range(len(self.log_mels))]
    row = layout_prompt(self.text.converse(self.turns), clips)
    length = round_up(len(row.tokens), LENGTH)
    ids = [1] * len(row.tokens)
    parts = zip((row.tokens, row.audio_index, ids), (0, NO_AUDIO, 0), strict=True)
    prompt = (pad([part], (1, length), fill, np.int32) for part, fill in parts)
    heard, heard_valid = (x.reshape(1, -1, *x.shape[2:]) for x in (heard, heard_valid))
    prompt = Prompt._make(map(jnp.asarray, prompt))
    x, ids = self.model.splice(prompt, heard, heard_valid)
    said = np.asarray(x[0][ids[0] > 0])
    room = self.model.llama.config.max_position_embeddings - self.max_new_tokens
    if round_up(len(said), LENGTH) > room:
      raise ValueError(f'the conversation has {len(said)} tokens; {room} is the limit')
    return said


_hear = jax.jit(lambda model, log_mel, valid: model.hear(log_mel, valid))


def _no_audio(model: SpeechLLM):
  return jnp.zeros((1, 1, model.llama.config.hidden_size)), jnp.zeros((1, 1), bool)


def speak(text: str, path: Path) -> None:
  """Says a text into a wav file with the embedded voice; piper runs as a program."""
  if find_spec('piper') is None:
    raise FileNotFoundError("--speak needs piper: pip install 'acl_jax[demo]'")
  command = [sys.executable, '-m', 'piper', '-f', str(path)]
  command += ['-m', str(assets.resolve('asset:joe-voice'))]
  said = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
  if said.returncode or not path.is_file():
    reason = ' '.join(said.stderr.decode(errors='replace').strip().splitlines()[-1:])
    raise OSError(f'{path}: piper could not say the reply ({reason})')


def _take_turn(chat: Chat, words: str, recording: str, temperature: float) -> str:
  reply = ''
  for piece in chat.say(words, recording, temperature):
    print(piece, end='', flush=True)
    reply += piece
  print(flush=True)
  return reply


def _converse(chat: Chat, temperature: float) -> None:
  print('Type, or name a recording with @file.wav. Ctrl-D ends.', file=sys.stderr)
  while True:
    try:
      words = input('you> ').split()
    except EOFError:
      return
    files = [word[1:] for word in words if word.startswith('@')]
    rest = ' '.join(word for word in words if not word.startswith('@'))
    if not words:
      continue
    try:
      if len(files) > 1:
        raise ValueError(f'{len(files)} recordings; a turn takes one')
      _take_turn(chat, rest, ''.join(files), temperature)
    except (ValueError, OSError) as error:
      print(f'error: {program.error_message(error)}', file=sys.stderr)


def main(argv: Sequence[str]) -> None:
  """Answers once, or converses."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  values = flags.FLAGS
  if values.audio:  # before the model is loaded
    audio.read(values.audio)
  text = build.load_text_frontend(values.config)
  model = build.load_model(values.config, values.checkpoint)
  chat = Chat(model, text, max_new_tokens=values.max_new_tokens, seed=values.seed)
  if not (values.audio or values.text):
    return _converse(chat, values.temperature)
  reply = _take_turn(chat, values.text, values.audio, values.temperature)
  if values.speak:
    speak(reply, Path(values.speak))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string(
    'checkpoint', None, 'a workdir or an adapter; else the shipped one'
  )
  flags.DEFINE_string('audio', '', 'a recording of the question')
  flags.DEFINE_string('text', '', 'the question, or what to do with the recording')
  flags.DEFINE_string('speak', '', 'wav file to say the reply in')
  flags.DEFINE_integer('max_new_tokens', 128, 'where a reply is cut', lower_bound=1)
  flags.DEFINE_float('temperature', 0.0, '0 takes the likeliest token', lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'which reply, when the temperature is not 0')
  flags.mark_flag_as_required('config')
  program.run(main)
