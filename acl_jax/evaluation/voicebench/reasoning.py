# SPDX-License-Identifier: Apache-2.0
"""The verdict of an answer to a question of BIG-Bench Hard, as VoiceBench reads it.

Four kinds of question: is a sentence about sports plausible, which order of adjectives
is right (a or b), do steps lead back to the start, does somebody tell the truth. Rules
are tried in order; the first that matches decides. Two of them contradict what they
match (`must be lying` is yes, a lone `b` is a); they are VoiceBench's.
"""

import functools
import re
from collections.abc import Callable

from acl_jax.evaluation.voicebench.adjectives import order_rules
from acl_jax.evaluation.voicebench.letters import strip_markers

Rules = tuple[tuple[str, int], ...]

_START = r'the starting point'
# '@' stands for no, then for yes.
_YES_NO: tuple[str, ...] = (
  r'answer is @',
  r'(?:the|final|i would) answer @',
  r'the answer is without any modification @|the answer to the question is @',
)
_TRUE_FALSE: tuple[str, ...] = (r'the answer is @', r'answer @')
_YES_NO_LAST: tuple[str, ...] = (
  r'the answer is \\boxed\{(?:\\text\{@\}|@)\}',
  r'(?:i will provide the answer as|prefix answer|conclusion) @',
)
_BOXED_TRUTH = (r'the answer is \$?\\boxed\{\\text\{@\}\}\$?',)

_ENDS: Rules = (('^no', 0), ('^yes', 1), ('no$', 0), ('yes$', 1))

_LIES: Rules = (
  (r'the prefix no applies to the statement|veena s statement cannot be true', 0),
  (r'the answer is the truth|therefore truly lorene tells the truth', 1),
  (r'affirmatively alejandro tells the truth', 1),
  (r'answer is .+? (?:tells a lie|lies|says lie)', 0),
  (r'answer is .+? (?:doesn t|does not|didn t) tell the truth', 0),
  (r'answer is .+? (?:tells|does tell) the truth', 1),
  (r'answer to the question .+? is no', 0),
  (r'answer to the question .+? is yes', 1),
  (r'from the above steps we can conclude that .+? tells the truth', 1),
  (r'(?:does not tell|cannot be telling) the truth$|is lying$|tells the lie$', 0),
  (r'is also telling the truth$|must be (?:lying|telling the truth)$', 1),
  (r'tells the truth$|delfina does tell the truth$|osvaldo is telling the truth$', 1),
  (r'lies$', 0),
  *_ENDS,
)

_NAVIGATE: Rules = (
  (rf'you (?:do not return to|are not at|cannot return to) {_START}', 0),
  (rf'you haven t moved back to {_START}', 0),
  (rf'you return to {_START}', 1),
  (rf'you (?:are not facing|haven t returned to) {_START}', 0),
  (rf'you end up back at {_START}', 1),
  (rf'you (?:are not back at|will not return to) {_START}', 0),
  (rf'yes following these instructions|we end up back at {_START}', 1),
  (rf'indeed (?:returns us|bring us back|return|return you) to {_START}', 1),
  (r'you ll end up (?:right )?back where you started', 1),
  (rf'we (?:ve now|have now) returned to {_START}|we are now back at {_START}', 1),
  (rf'i have returned to the starting position|i ve returned to {_START}', 1),
  (rf'the final position is not directly at {_START}', 0),
  (r'it appears that we did not return to the exact starting point', 0),
  (rf'(?:does not|following these instructions doesn t) return us to {_START}', 0),
  (r'i will end up back where i started|i ll be back where i started', 1),
  (rf'i ll end up back at {_START}|we are back at {_START}!', 1),
  (rf'after following these instructions we return to {_START}', 1),
  (rf'following these instructions will always return us to {_START}', 1),
  (rf'the answer is {_START}', 1),
  (r'these directions does not lead you back to your original starting point', 0),
  *_ENDS,
)

_WEIGHED = r'(?:considering these (?:points|factors|elements)|based on this analysis)'
_SPORTS: Rules = (
  (r'(?:final answer|the answer is) the sentence is plausible', 1),
  (r'the answer is directly yes', 1),
  (r'no the sentence is not possible|the answer is it is not possible', 0),
  (r'the sentence is not (?:particularly )?plausible', 0),
  (r'yes the sentence is structurally plausible', 1),
  (r'is the sentence plausible\? yes it is', 1),
  (r'no the original sentence is not plausible|it s not a plausible', 0),
  (r'to answer your original question no', 0),
  (r'making it plausible', 1),
  (r'making it implausible', 0),
  (r'it is indeed a plausible sentence', 1),
  (rf'{_WEIGHED} the sentence is plausible', 1),
  (r'i would say (?:that )?the sentence is plausible', 1),
  (r'i d say it s not entirely plausible|therefore not plausible', 0),
  (r'making it an implausible statement|the following sentence is not plausible', 0),
  (r'considering these points the sentence is unlikely to be true', 0),
  (r'yes the sentence is plausible', 1),
  (rf'{_WEIGHED} the sentence seems plausible', 1),
  (r'given (?:the context|this analysis|these points) the sentence is plausible', 1),
  (r'considering these points the sentence is unlikely to be plausible', 0),
  (r'the context of sports particularly basketball this sentence is plausible', 1),
  (r'considering these points the sentence is likely true', 1),
  (r'i would say it s unlikely|it seems unlikely', 0),
  (r'considering these points the sentence is the plausible', 1),
  (r'the sentence is not entirely (?:possible|accurate|plausible)', 0),
  (r'the answer is plausible', 1),
  (r'modification of answer not possible', 0),
  (r'i would say that the sentence is generally plausible', 1),
  (r'(?:points the sentence seems|the sentence appears) to be a plausible', 1),
  (r'^not plausible$', 0),
  (r'considering these points the sentence .+? is grammatically correct and makes', 1),
  (r'considering these points the sentence .+? is plausible', 1),
  (r'considering these points the sentence .+? is unlikely', 0),
  (r'based on (?:this analysis|these steps) the sentence .+? is plausible', 1),
  (r'considering these points the sentence .+? seems to be a possible', 1),
  (rf'{_WEIGHED} the sentence .+? (?:appears to be|seems) plausible', 1),
  (r'the sentence .+? is not very plausible', 0),
  (r'considering these points .+? is a plausible sentence', 1),
  (r'given (?:this information|the context) the sentence .+? is plausible', 1),
  (r'the sentence .+? is flexible and realistic', 1),
  (r'considering these points the sentence .+? is not a plausible statement', 0),
  (r'the sentence .+? is not plausible', 1),
  ('^no', 0),
  ('^yes', 1),
  ('^the following sentence is plausible', 1),
  *_ENDS,
)


def find_verdict(answer: str, id: str) -> int | None:
  """Return 1 for yes or (b), 0 for no or (a); None if no rule finds one.

  ValueError if the id names none of the four kinds of question.
  """
  for kind, read in _READERS.items():
    if kind in id:
      return read(normalise(answer))
  raise ValueError(f'id is {id!r}; it names none of {", ".join(_READERS)}')


def normalise(answer: str) -> str:
  """Lower case, without markers, and with a space for most punctuation."""
  answer = answer.lower()
  if answer.endswith('<|user|>'):
    answer = answer[: -len('<|user|>')].strip()
  answer = strip_markers(answer).replace('<|turn_end|>', '').replace('**', ' ')
  return ' '.join(re.sub('[:"\\-,.：]', ' ', answer).split())


@functools.cache
def _yes_no_rules() -> Rules:
  def fill(patterns: tuple[str, ...], no: str, yes: str) -> Rules:
    return tuple(
      (pattern.replace('@', word), verdict)
      for pattern in patterns
      for verdict, word in enumerate((no, yes))
    )

  return (
    *fill(_YES_NO, 'no', 'yes'),
    *fill(_TRUE_FALSE, 'false', 'true'),
    *fill(_BOXED_TRUTH, 'false', 'true'),
    *fill(_YES_NO_LAST, 'no', 'yes'),
  )


def _apply(rules: Rules, answer: str) -> int | None:
  return next((value for rule, value in rules if re.search(rule, answer)), None)


def _read(rules: Rules, answer: str) -> int | None:
  return _apply((*_yes_no_rules(), *rules), answer)


def _read_order(answer: str) -> int | None:
  return 0 if answer in ('a', 'b') else _apply(order_rules(), answer)


_READERS: dict[str, Callable[[str], int | None]] = {
  'sports_understanding': functools.partial(_read, _SPORTS),
  'hyperbaton': _read_order,
  'navigate': functools.partial(_read, _NAVIGATE),
  'web_of_lies': functools.partial(_read, _LIES),
}
KINDS_OF_QUESTION = tuple(_READERS)
