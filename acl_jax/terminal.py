# SPDX-License-Identifier: Apache-2.0
"""A conversation in the terminal: typed or recorded turns, spoken replies."""

import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import soundfile

from acl_jax import audio_devices, completion
from acl_jax.completion import name_file
from acl_jax.conversation import Clip, Conversation
from acl_jax.runtime import program
from acl_jax.runtime.files import open_atomically
from acl_jax.text.templates import Turn
from data_pipeline import audio

Content = Sequence[str | Clip]
# A word, or a file whose name may have spaces: @"my file.wav", @my\ file.wav.
_WORD = re.compile(r'(?<!\S)@(?:"([^"]+)"|\'([^\']+)\')(?!\S)|(?:\\ |\S)+')


class Terminal:
  """A conversation; an error ends a turn, not the conversation.

  new_conversation: starts one. speaker: also speaks the replies. has_microphone: the
    Enter key records a turn. options: of `Conversation.stream`.
  """

  def __init__(
    self,
    new_conversation: Callable[[], Conversation],
    speaker: audio_devices.Speaker | None = None,
    has_microphone: bool = False,
    **options: Any,
  ):
    self._new_conversation, self._speaker = new_conversation, speaker
    self._has_microphone, self._options = has_microphone, options
    self.conversation = new_conversation()
    self._clips: list[Clip] = []

  def converse(self) -> None:
    """Answer what is typed or recorded until the input ends."""
    completion.enable()
    if isinstance(sys.stdin, io.TextIOWrapper):  # a bad byte loses no other line
      sys.stdin.reconfigure(errors='surrogateescape')
    record = ', or press Enter to record' if self._has_microphone else ''
    print(f'Type, or name audio with @file.wav{record}.', file=sys.stderr)
    print('/new starts again, /save FILE saves, Ctrl-D ends.', file=sys.stderr)
    while True:
      try:
        self._execute(_ask('you> '))
      except EOFError:
        return
      except (ValueError, OSError) as error:
        print(f'error: {program.error_message(error)}', file=sys.stderr)

  def take_turn(self, content: Content) -> None:
    """Print the reply to a turn, and speak it, while it is decoded."""
    num_turns = len(self.conversation.turns)
    pieces = self.conversation.stream(content, **self._options)
    try:
      for piece in self._speaker.follow(pieces) if self._speaker else pieces:
        print(piece, end='', flush=True)
      print(flush=True)
    finally:  # the voice may have failed after the text was complete
      if len(self.conversation.turns) > num_turns:
        self._clips += [part for part in content if isinstance(part, Clip)]

  def _execute(self, line: str) -> None:
    """Run a command, or take a turn; ValueError before anything is changed."""
    if not line.isascii() and any('\ud800' <= c <= '\udfff' for c in line):
      raise ValueError('the line is not UTF-8; it is left out')
    match line.split(maxsplit=1):
      case ['/new']:
        self.conversation, self._clips = self._new_conversation(), []
      case ['/save', path]:
        save(Path(path.strip()), self.conversation.turns, self._clips)
      case ['/new' | '/save', *_]:
        raise ValueError('the commands are /new and /save FILE')
      case []:
        if self._has_microphone:
          wait = lambda: _ask('recording, press Enter to end ')  # noqa: E731
          self.take_turn([Clip(audio_devices.record(wait))])
      case _:
        self.take_turn(parse_turn(line))


def _ask(prompt: str) -> str:
  """Read a line; the prompt goes to stderr unless the input is a terminal."""
  if sys.stdin.isatty():
    return input(prompt)
  print(prompt, end='', file=sys.stderr, flush=True)
  return input('')


def parse_turn(line: str) -> list[str | Clip]:
  """Split a typed line into text and clips, a clip for each `@file`.

  A word that begins with @ is text if it is neither quoted nor the name of a file, nor
  ends as audio files do. ValueError for an @ alone.
  """
  content: list[str | Clip] = []
  for match in _WORD.finditer(line):
    word, quoted = match[0], match[1] or match[2]
    name = quoted or word[1:].replace('\\ ', ' ')
    path = Path(name).expanduser() if name.startswith('~') else Path(name)
    is_file = bool(quoted) or path.suffix.lower() in audio.SUFFIXES or path.is_file()
    if word.startswith('@') and name and is_file:
      content.append(Clip(str(path)))
    elif content and isinstance(content[-1], str):
      content[-1] += f' {word}'
    else:
      content.append(word)
  if content == ['@']:
    raise ValueError('name an audio file behind the @: @question.wav')
  return content


def save(path: Path, turns: Sequence[Turn], clips: Sequence[Clip]) -> None:
  """Write a JSON line per turn: its role and its content as it would be typed.

  clips: those of all turns. Recordings become wav files beside `path`.
  """
  names = [_name_clip(path, number, clip) for number, clip in enumerate(clips)]
  with open_atomically(path) as file:
    for turn in turns:
      parts = [turn.content] if isinstance(turn.content, str) else turn.content
      words = [part if isinstance(part, str) else names[part.index] for part in parts]
      line = {'role': turn.role, 'content': ' '.join(words)}
      print(json.dumps(line, ensure_ascii=False), file=file)


def _name_clip(path: Path, number: int, clip: Clip) -> str:
  """Return `@file`; writes the file of a recording."""
  if isinstance(clip.source, str | Path):
    return name_file(str(clip.source))
  name = path.with_name(f'{path.stem}-{number}.wav')
  soundfile.write(name, clip.source, audio.SAMPLE_RATE)
  return name_file(str(name))
