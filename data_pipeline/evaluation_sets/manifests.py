# SPDX-License-Identifier: Apache-2.0
"""Lines of the sets to lines of manifests, with audio for everything that is spoken."""

from collections.abc import Callable
from typing import Any

from data_pipeline.evaluation_sets.speech import Speaker
from data_pipeline.evaluation_sets.texts import LANGUAGES

Entry = dict[str, Any]
Finish = Callable[[], list[Entry]]  # the lines of a manifest, once everything is spoken


def plan_line(
  name: str, entry: Entry, speaker: Speaker, every_pair: bool = False
) -> Finish:
  """Plan what is spoken of a line of set `name`; returns a function for afterwards.

  every_pair: translate a sentence from and to all languages, not only one.
  """
  if name == 'translations':
    return _plan_translations(entry, speaker, every_pair)
  if name == 'conversations':
    return _plan_conversation(entry, speaker)
  audio = speaker.plan(entry['id'], entry['text'], entry['id'])
  return lambda: [speaker.describe(audio) | entry]


def _plan_translations(entry: Entry, speaker: Speaker, every_pair: bool) -> Finish:
  """Both directions between English and another language, from those with a voice.

  The other languages take turns, so that each has its own quarter of the sentences.
  """
  id, others = entry['id'], LANGUAGES[1:]
  if not every_pair:
    others = (others[int(id.rpartition('-')[2]) % len(others)],)
  audio = {
    lang: speaker.plan(f'{id}-{lang}', entry[lang], id, lang)
    for lang in (LANGUAGES[0], *others)
    if lang in speaker.languages
  }
  directions = [('en', lang) for lang in others]
  directions += [(lang, 'en') for lang in others]
  return lambda: [
    speaker.describe(audio[source])
    | {
      'id': f'{id}-{source}-{target}',
      'text': entry[source],
      'reference': entry[target],
      'target_lang': target,
    }
    for source, target in directions
    if source in audio
  ]


def _plan_conversation(entry: Entry, speaker: Speaker) -> Finish:
  """All that is spoken in a conversation is spoken by one voice."""
  id = entry['id']
  audio: dict[tuple[int, int], str] = {}
  for number, turn in enumerate(entry['turns']):
    for part_number, part in enumerate(turn['content']):
      if isinstance(part, dict) and part.get('say'):
        name = f'{id}-{number}-{part_number}'
        audio[number, part_number] = speaker.plan(name, part['text'], id)

  def finish_part(key: tuple[int, int], part: Entry) -> Entry:
    if key not in audio:
      return part
    return speaker.describe(audio[key]) | {'text': part['text']}

  def finish() -> list[Entry]:
    turns = []
    for number, turn in enumerate(entry['turns']):
      content = turn['content']
      if not isinstance(content, str):
        content = [finish_part((number, n), part) for n, part in enumerate(content)]
      turns.append(turn | {'content': content})
    return [entry | {'turns': turns}]

  return finish
