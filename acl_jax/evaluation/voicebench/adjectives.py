# SPDX-License-Identifier: Apache-2.0
"""Phrases that say which of two sentences, a or b, has its adjectives in order."""

import functools

_SORT = '(?:adjective|adjectival|grammatical|sentence|object|objective|answer)'
_RIGHT = '(?:correct|proper|right)'
_PLACE = '(?:(?:found |provided )?in )?(?:option|sentence)'

# '@' stands for the letter; a phrase with a comes before the same one with b.
RULES = (
  r'the (?:correct |final )?answer is \(@\)',
  rf'the {_RIGHT} (?:adjective order|sentence|option|adjectivs) is (?:option )?\(@\)',
  r'the correct (?:sentence would be option|option would be) \(@\)',
  rf'the correct (?:{_SORT} )?order is @|the proper adjective order is @',
  r'correct (?:adjective|adjectival) order is @|the right adjective order is @\)',
  r'the sentence with the correct adjectives is @',
  r'correct adjective order options? is @',
  r'the correct order of adjectives (?:is|in the sentence is option) @',
  r'(?:the adjectives in|in) option @ (?:the adjectives )?are in the correct order',
  r'option @ correctly follows the standard adjective order',
  r'the answer directly is @|final answer (?:should be )?@',
  r'the correct order would be option @|the correct (?:option|one) is option @',
  r'option \(@\) uses the correct adjective sequence',
  r'answer is without any modification (?:option )?@',
  r'answer is @',
  r'the answer is (?:\[(?:option )?@\]|is @|sentence @|option \(@\))',
  r'option \(@\) is the correct answer',
  r'the final answer without any modification is @',
  r'the correct (?:sentence|option) is @|the correct sentence would be @',
  rf'correct adjective order is {_PLACE} @|correct objective order option is @',
  r'option @ is (?:more accurate|closer to being correct|the correct)',
  r'answer is option @|the most logical order is option @',
  r'option @ (?:has|follows) the correct (?:adjective |word )?order',
  r'option @ has the adjectives in the correct order',
  r'sentence @ is the closest to the correct adjective order',
  r'sentence @ has (?:a more logical|the correct adjective order)',
  r'the closest correct order is option @',
  r'option @ is the closest (?:to the typical order|match)',
  r'the correct answer would be (?:option|the) @|the correct adverb order would be @',
  r'option @ has a (?:better adjective order|slightly better chance of being correct)',
  r'option @ seems to follow the typical order',
  rf'the correct (?:objective )?order is {_PLACE} @',
  r'the adjectives are in the correct order for @',
  r'option \(@\) (?:has (?:a|the) correct|follows the general) adjective order',
  r'option @ follows the correct sequence of adjectives',
  r'option @ would be (?:closer to the correct order|more correct)',
  r'the correct sentence with the adjective order is (?:option )?@',
  r'the correct sentence is option @|option @ is more grammatically correct',
  r'option \(@\) (?:follows the typical order of adjectives|would be more grammatic)',
)
FIXED_RULES = (
  ('(?:adjective order is in|following the typical order is) the first option', 0),
  ('(?:adjective order is in|following the typical order is) the second option', 1),
  ('option a is incorrect and option b is correct', 1),
  ('option b follows the typical order of adjectives', 1),
  ('sentence a .+? seems to have a more logical', 0),
  ('sentence b .+? seems to have a more logical', 1),
  ('the correct adjective order is .+? option a', 0),
  ('the correct adjective order is .+? option b', 1),
  ('^a[ )]', 0),
  ('^b[ )]', 1),
)


@functools.cache
def order_rules() -> tuple[tuple[str, int], ...]:
  """Return patterns in the order in which they decide, with 0 for a and 1 for b."""
  letters = (
    (rule.replace('@', letter), verdict)
    for rule in RULES
    for verdict, letter in enumerate('ab')
  )
  return (*letters, *FIXED_RULES)
