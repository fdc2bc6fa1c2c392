# SPDX-License-Identifier: Apache-2.0
"""Questions and requests to a chat model about WordNet's common words."""

import random
import re
from collections import Counter
from pathlib import Path

NOUN_TEMPLATES = (
  'What is {a} {noun}?',
  'What is the purpose of {a} {noun}?',
  'Can you explain what {a} {noun} is?',
  'Tell me about the {noun}.',
  'Where can I find {a} {noun}?',
  'How do I choose a good {noun}?',
  'How much does {a} {noun} cost?',
  'Do you know who invented the {noun}?',
  'Write a short poem about {a} {noun}.',
  'Give me three facts about the {noun}.',
  'What is the difference between {a} {noun} and {a2} {noun2}?',
  'Which is older, the {noun} or the {noun2}?',
  'I would like to buy {a} {noun}. What should I look for?',
  'My {noun} is broken. What should I do?',
  'How would you describe {a} {noun} to a child?',
  'Why is the {noun} so important?',
  'Tell me a story about {a} {noun} and {a2} {noun2}.',
  'What rhymes with {noun}?',
  'Please use the word {noun} in a sentence.',
  'Have you ever seen {a} {noun}?',
)
VERB_TEMPLATES = (
  'How do I {verb} {a} {noun}?',
  'What does it mean to {verb}?',
  'When should I {verb} the {noun}?',
  'Why do people {verb}?',
  'Is it safe to {verb} {a} {noun}?',
  'Can you teach me how to {verb}?',
  'I want to {verb} more often. Any advice?',
  'Who was the first person to {verb} {a} {noun}?',
  'Please {verb} the {noun} before you leave.',
)
ADJECTIVE_TEMPLATES = (
  'What is the opposite of {adjective}?',
  'Can you name something that is {adjective}?',
  'Why is the {noun} so {adjective}?',
  'Give me another word for {adjective}.',
  'Is {a} {noun} usually {adjective}?',
  'That was {a3} {adjective} {noun}.',
)
PLACE_TEMPLATES = (
  'What is the capital of {place}?',
  'Where is {place}?',
  'How many people live in {place}?',
  'What language do they speak in {place}?',
  'What is the weather like in {place}?',
  'Tell me something interesting about {place}.',
  'Is {place} a good place for a holiday?',
  'How far is it from {place} to {place2}?',
  'Which city is the capital of {place}?',
  'What food is {place} famous for?',
)
NUMBER_TEMPLATES = (
  'What is {number} plus {number2}?',
  'What is {number} times {number2}?',
  'What is {number} minus {number2}?',
  'Please count from {number} to {number2}.',
  'How many {noun}s can you fit into {number} boxes?',
)
NUMBERS = (
  'one two three four five six seven eight nine ten eleven twelve thirteen fourteen'
  ' fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy'
  ' eighty ninety'
).split() + ['a hundred', 'a thousand', 'twenty five', 'forty two', 'sixty four']

_CAPITAL = re.compile(
  r'the capital (?:and largest city )?of (?:the )?((?:[A-Z][a-z]+ ?){1,3})'
)


def common_words(wordnet: Path, part: str, min_count: int = 2) -> list[str]:
  """Return plain lower-case words of a part of speech, sorted.

  min_count: uses in WordNet's sense-tagged corpus.
  """
  counts = Counter()
  digit = {'noun': '1', 'verb': '2', 'adjective': '3', 'satellite': '5'}[part]
  for line in (wordnet / 'cntlist.rev').read_text(encoding='latin-1').splitlines():
    key, _, count = line.split()
    word, _, sense = key.partition('%')
    if sense.startswith(digit) and re.fullmatch('[a-z]{3,12}', word):
      counts[word] += int(count)
  return sorted(word for word, count in counts.items() if count >= min_count)


def make_questions(
  wordnet: Path, glosses: list[str], count: int, rng: random.Random
) -> list[str]:
  """Return `count` questions and requests: random templates with random words."""
  nouns = common_words(wordnet, 'noun')
  verbs = common_words(wordnet, 'verb')
  adjectives = common_words(wordnet, 'adjective') + common_words(wordnet, 'satellite')
  places = sorted({m.strip() for gloss in glosses for m in _CAPITAL.findall(gloss)})
  groups = (NOUN_TEMPLATES,) * 3 + (VERB_TEMPLATES,) * 2
  groups += (ADJECTIVE_TEMPLATES, PLACE_TEMPLATES, NUMBER_TEMPLATES)
  questions = []
  for _ in range(count):
    noun, noun2 = rng.choice(nouns), rng.choice(nouns)
    adjective = rng.choice(adjectives)
    template = rng.choice(rng.choice(groups))
    question = template.format(
      noun=noun,
      noun2=noun2,
      verb=rng.choice(verbs),
      adjective=adjective,
      place=rng.choice(places),
      place2=rng.choice(places),
      number=rng.choice(NUMBERS),
      number2=rng.choice(NUMBERS),
      a=_article(noun),
      a2=_article(noun2),
      a3=_article(adjective),
    )
    questions.append(question)
  return questions


def _article(word: str) -> str:
  return 'an' if word[0] in 'aeiou' else 'a'
