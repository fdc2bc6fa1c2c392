# SPDX-License-Identifier: Apache-2.0
"""Sentences worth saying to a chat model, made from WordNet: usage examples, questions
and requests about common words. Every word is wanted a few times before any is often.

  python -m data_pipeline.sentences --count=22000 --held_out=300 --output=lines
  python -m data_pipeline.sentences --vocabulary=1500 --lists=10000 --output=easy
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from data_pipeline.questions import questions

# Kept out of every list: the question everybody tries first is to be new to the model.
UNSEEN = 'capital of France'
_GLOSS = re.compile(r'^\d{8} .*? \| (.*)$')
_EXAMPLE = re.compile(r'"([^"]{8,110})"')
_WORD = re.compile(r"[a-z']+")


def read_glosses(wordnet: Path) -> list[str]:
  """The gloss of every synset: a definition, then quoted examples."""
  lines = []
  for part in ('noun', 'verb', 'adj', 'adv'):
    for line in (wordnet / f'data.{part}').read_text(encoding='latin-1').splitlines():
      if match := _GLOSS.match(line):
        lines.append(match.group(1))
  return lines


def as_sentence(example: str) -> str | None:
  """A quoted example as a written sentence, or None where it has marks nobody says."""
  example = ' '.join(example.split())
  if not re.fullmatch(r"[A-Za-z][A-Za-z ,.;:?!'-]*", example) or example.count(' ') < 2:
    return None
  example = example[0].upper() + example[1:].rstrip(' ,;:')
  example = re.sub(r"\bi\b(?=[ '])", 'I', example)
  return example if example[-1] in '.?!' else example + '.'


def examples(glosses: list[str]) -> list[str]:
  """WordNet's usage examples, as sentences."""
  found = (as_sentence(quote) for gloss in glosses for quote in _EXAMPLE.findall(gloss))
  return sorted({sentence for sentence in found if sentence})


def words_of(line: str) -> list[str]:
  """The words of a line, in lower case."""
  return _WORD.findall(line.lower())


def select(lines: list[str], count: int, wanted: int = 4) -> list[str]:
  """`count` lines, first those with a word that was met fewer than `wanted` times."""
  met, chosen, rest = Counter(), [], []
  for line in dict.fromkeys(lines):
    words = set(words_of(line))
    if any(met[word] < wanted for word in words):
      chosen.append(line)
      met.update(words)
    else:
      rest.append(line)
  return (chosen + rest)[:count]


def word_lists(words: Sequence[str], count: int, rng: random.Random) -> list[str]:
  """`count` lines of four to six words, each word as often as any other.

  A recogniser cannot guess them from their neighbours: it has to hear them.
  """
  dealt, lines = [], []
  for _ in range(count):
    size = rng.randint(4, 6)
    while len(dealt) < size:
      dealt = rng.sample(words, len(words)) + dealt  # who was left is dealt first
    line, dealt = dealt[-size:], dealt[:-size]
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
  """`count` lines to train on and `held_out` others, three fifths of them examples.

  With a `vocabulary`, only lines of that many words, the commonest of the examples:
  where these run short, questions take their place, in both lists alike. The held-out
  lines are drawn first and blindly; only the rest is chosen for its words. `lists` more
  lines to train on are words of the vocabulary in no order.
  """
  if lists and vocabulary is None:
    raise ValueError(f'--lists={lists} needs a --vocabulary')
  rng = random.Random(seed)
  glosses = read_glosses(wordnet)
  said = [line for line in examples(glosses) if UNSEEN not in line]
  rng.shuffle(said)
  made = questions(wordnet, glosses, 2 * (count + held_out), rng)
  easy: set[str] = set()
  if vocabulary is not None:
    met = Counter(word for line in said for word in words_of(line))
    easy = {word for word, _ in met.most_common(vocabulary)}
    more = questions(wordnet, glosses, 20 * (count + held_out), rng)
    said, made = (
      [line for line in lines if easy.issuperset(words_of(line))]
      for lines in (said, made + more)  # most have a word that is not easy
    )
  known = set(said)
  asked = [line for line in dict.fromkeys(made) if line not in known]
  asked = [line for line in asked if UNSEEN not in line]
  total = max(1, min(count + held_out, len(said) + len(asked)))
  share = -(-held_out * min(len(said), total * 3 // 5) // total)  # rounded up
  aside = said[:share] + asked[: held_out - share]
  said, asked = said[share:], asked[held_out - share :]
  lines = select(said, count * 3 // 5)
  lines += select(asked, count - len(lines))
  words = sorted(word for word in easy if word.isalpha())
  if lists and not words:
    raise ValueError(f'{wordnet}: its examples have no word to make lists of')
  lines += word_lists(words, lists, rng)
  rng.shuffle(aside)
  rng.shuffle(lines)
  return lines, aside


def main(argv: Sequence[str]) -> None:
  """Runs `make` with the flags."""
  del argv
  given = flags.FLAGS
  made = make_lines(
    *(Path(given.wordnet), given.count, given.held_out, given.seed),
    *(given.vocabulary, given.lists),
  )
  for lines, suffix in zip(made, ('.txt', '-held-out.txt'), strict=True):
    path = Path(given.output + suffix)
    path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
    print(f'{len(lines)} lines in {path}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_string('wordnet', '/usr/share/wordnet', "WordNet's dict folder")
  flags.DEFINE_integer('count', 22_000, 'lines to train on', lower_bound=1)
  flags.DEFINE_integer('held_out', 300, 'other lines, to test on', lower_bound=0)
  flags.DEFINE_integer(
    'vocabulary', None, 'only lines of this many commonest words', lower_bound=1
  )
  flags.DEFINE_integer(
    'lists', 0, 'further lines to train on: words in no order', lower_bound=0
  )
  flags.DEFINE_integer('seed', 0, 'which lines, in which order')
  flags.DEFINE_string('output', None, 'writes OUTPUT.txt and OUTPUT-held-out.txt')
  flags.mark_flag_as_required('output')
  program.run(main)
