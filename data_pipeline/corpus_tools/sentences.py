# SPDX-License-Identifier: Apache-2.0
"""Sentences to speak to a chat model, made from WordNet: usage examples, and questions
and requests about common words.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.corpus_tools.questions import make_questions

# In no list: the question that everybody tries first must be new to the model.
RESERVED_PHRASE = 'capital of France'
_GLOSS = re.compile(r'^\d{8} .*? \| (.*)$')
_EXAMPLE = re.compile(r'"([^"]{8,110})"')
_WORD = re.compile(r"[a-z']+")


def read_glosses(wordnet: Path) -> list[str]:
  """Return the gloss of every synset: a definition, then quoted examples."""
  glosses = []
  for part in ('noun', 'verb', 'adj', 'adv'):
    for line in (wordnet / f'data.{part}').read_text(encoding='latin-1').splitlines():
      if match := _GLOSS.match(line):
        glosses.append(match.group(1))
  return glosses


def as_sentence(quote: str) -> str | None:
  """Return a quoted example as a written sentence.

  None if it has fewer than three words or characters that are not spoken.
  """
  quote = ' '.join(quote.split())
  if not re.fullmatch(r"[A-Za-z][A-Za-z ,.;:?!'-]*", quote) or quote.count(' ') < 2:
    return None
  sentence = quote[0].upper() + quote[1:].rstrip(' ,;:')
  sentence = re.sub(r"\bi\b(?=[ '])", 'I', sentence)
  return sentence if sentence[-1] in '.?!' else sentence + '.'


def usage_examples(glosses: list[str]) -> list[str]:
  """Return WordNet's usage examples as sentences, sorted, each once."""
  quotes = (quote for gloss in glosses for quote in _EXAMPLE.findall(gloss))
  return sorted({sentence for sentence in map(as_sentence, quotes) if sentence})


def split_words(line: str) -> list[str]:
  """Return the words of a line in lower case."""
  return _WORD.findall(line.lower())


def select_lines(lines: list[str], count: int, min_uses: int = 4) -> list[str]:
  """Return `count` distinct lines, preferring those with rare words.

  A word is rare until `min_uses` lines with it are selected.
  """
  uses, preferred, others = Counter(), [], []
  for line in dict.fromkeys(lines):
    words = set(split_words(line))
    if any(uses[word] < min_uses for word in words):
      preferred.append(line)
      uses.update(words)
    else:
      others.append(line)
  return (preferred + others)[:count]


def make_word_lists(words: Sequence[str], count: int, rng: random.Random) -> list[str]:
  """Return `count` lines of four to six random words, all words equally often.

  A recogniser cannot guess these words from their context.
  """
  deck, lines = [], []
  for _ in range(count):
    size = rng.randint(4, 6)
    while len(deck) < size:
      deck = rng.sample(words, len(words)) + deck  # the end is dealt first
    line, deck = deck[-size:], deck[:-size]
    lines.append(' '.join(line).capitalize() + '.')
  return lines


def make_lines(
  wordnet: Path,
  count: int,
  held_out: int,
  seed: int,
  vocabulary: int | None = None,
  lists: int = 0,
) -> tuple[list[str], list[str]]:
  """Return `count` lines to train on and `held_out` others.

  Three fifths of each are usage examples; questions fill up where these run short. The
  held-out lines are drawn at random first; the training lines are then selected from
  the rest for their words.

  vocabulary: keep only lines of this many words, the commonest of the examples. lists:
  additional training lines of random words from the vocabulary.
  """
  if lists and vocabulary is None:
    raise ValueError(f'--lists={lists} requires --vocabulary')
  rng = random.Random(seed)
  examples, questions, words = _draw_lines(wordnet, count + held_out, vocabulary, rng)
  total = max(1, min(count + held_out, len(examples) + len(questions)))
  num_examples = -(-held_out * min(len(examples), total * 3 // 5) // total)
  num_questions = held_out - num_examples
  held_out_lines = examples[:num_examples] + questions[:num_questions]
  lines = select_lines(examples[num_examples:], count * 3 // 5)
  lines += select_lines(questions[num_questions:], count - len(lines))
  if lists and not words:
    raise ValueError(f'{wordnet}: its examples have no words for --lists={lists}')
  lines += make_word_lists(words, lists, rng)
  rng.shuffle(held_out_lines)
  rng.shuffle(lines)
  return lines, held_out_lines


def _draw_lines(
  wordnet: Path, count: int, vocabulary: int | None, rng: random.Random
) -> tuple[list[str], list[str], list[str]]:
  """Return examples and questions in random order, and the words of the vocabulary."""
  glosses = read_glosses(wordnet)
  examples = [line for line in usage_examples(glosses) if RESERVED_PHRASE not in line]
  rng.shuffle(examples)
  questions = make_questions(wordnet, glosses, 2 * count, rng)
  known: set[str] = set()
  if vocabulary is not None:
    counts = Counter(word for line in examples for word in split_words(line))
    known = {word for word, _ in counts.most_common(vocabulary)}
    # Most questions have a word outside the vocabulary, so many more are drawn.
    questions += make_questions(wordnet, glosses, 20 * count, rng)
    examples = [line for line in examples if known.issuperset(split_words(line))]
    questions = [line for line in questions if known.issuperset(split_words(line))]
  duplicates = set(examples)
  questions = [
    line
    for line in dict.fromkeys(questions)
    if line not in duplicates and RESERVED_PHRASE not in line
  ]
  return examples, questions, sorted(word for word in known if word.isalpha())
