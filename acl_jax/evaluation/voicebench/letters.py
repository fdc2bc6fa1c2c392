# SPDX-License-Identifier: Apache-2.0
"""The letter that an answer to a multiple-choice question names, read as VoiceBench.

Rules are tried in order; the first that finds a letter decides, and a rule prefers a
to b to c to d. Phrases such as 'the answer is' take the letter after them even where it
begins a word: 'the answer is a cat' is A.
"""

import functools
import re

CHOICES = 'abcd'

_BOLD = r'\*\*@'

# '@' stands for the letter.
RULES = (
  # Chinese: 'the answer (should be) (option) @', '@ is right'.
  '答案(?:应该)?是 ?@|答案就?是选项@|答案是‘@|是@：|答案选@|@是正确|选项@是最合适的',
  rf'answer is:? {_BOLD}',
  rf'the answer to the (?:question is: |multiple-choice question is ){_BOLD}',
  "the answer is '@'",
  '@ is the best answer',
  'the answer is @',
  'the correct answer is @',
  'would select @',
  'would choose @',
  'would (?:select|choose) option @',
  r'is "@["\.]',
  rf'(?:is|be):? {_BOLD}(?:[.,:)]|\*\*)|is {_BOLD} \(',
  rf'(?:is therefore|be) option {_BOLD}:|(?:as|be) {_BOLD}:|is: \n\n{_BOLD}(?:\)|\*\*)',
  rf'(?:be|be to|with|suggests) {_BOLD}\)|is likely to be: {_BOLD}\.',
  rf'is (?:option|likely) {_BOLD}\*\*|is:(?:\n|\n\n){_BOLD}\.',
  r'is typically "@\)|is: \n\n@\)',
  'would be @',
  r'would be (?:option @|\(@\)|option \(@\))',
  r"is @,|is typically @[,.]|i'd say @\.",
  'option @[.:,]',
  rf'the answer is:\n{_BOLD}',
  r'is @[:.]|is: @\.|is \(@\)',
  r':\n\n?@[.),]|: [ \n]?\n@\.',
  r'is option @,|\(@\) would be|is @\)|is: @\)|is:\n\n@:',
  r'\(option @\)|select option "@"',
  'is: @',
  rf'is:\n{_BOLD}\)|is (?:most )?likely {_BOLD}:|is the {_BOLD}(?:\)|\*\* )',
  rf'is typically {_BOLD}[,:]|is likely: {_BOLD},|is most likely {_BOLD}[,)]',
  rf'is often {_BOLD}:',
  "is (?:likely|option) '@'",
  rf'is:\n(?:  \n)?{_BOLD}[: ]|is:  \n(?:{_BOLD}:|@\))|is:\n\n{_BOLD}',
  r"would be '@'|question is @ \(|known as '@'|is '@\)|the question is '@'",
  rf'(?:closest|corresponds) to option {_BOLD}\*\*|(?:was|is) option {_BOLD}\*\*',
  rf'is option {_BOLD} |corresponds to:\n- {_BOLD}:',
  rf'option {_BOLD}:|be: \n\n@\)|is (?:likely )?"@\)',
  # LaTeX: '\( \boxed{@} \)', '\( \text{@. …'
  r'is \\\( \\boxed\{(?:@[ })]|\\text\{@\}\} \\\))|is \\\( ?\\text\{@\.',
  r'is \\\( \\text\{@[):}]|is \\\( \\textbf\{@[)}]|is \\\( \\mathbf\{@\}',
  r'is \\\((?: @ |@)\\\)|is: \\\( \\text\{@[.)]|is \} \\mathbf\{@\.',
  r'is:\n\\\[ \\boxed\{(?:\\text\{@\}|@)\}|is:\n\n?\\\[ \\text\{@\)',
  r'is:\n\\\( \\textbf\{@\.',
  r' @\.',
  ' @,',
  ' @:',
  r' @\)',
  r'\*\*@\.',
  r'\*\*@\)',
  r'"@\.',
  '"@,',
  '"@:',
  r'\(@\)',
  '"@"',
)


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
  """Return each choice with what finds it, in the order in which they decide."""
  return [
    (choice, re.compile(rule.replace('@', choice)))
    for rule in RULES
    for choice in CHOICES
  ]


def find_letter(answer: str) -> str | None:
  """Return 'A', 'B', 'C' or 'D'; None if no rule finds one."""
  answer = strip_markers(answer.lower())
  for choice, pattern in _patterns():
    if pattern.search(answer):
      return choice.upper()
  if (
    answer
    and answer[0] in CHOICES
    and (len(answer) == 1 or answer[1:2] in ('.', ',', ':', ')'))
  ):
    return answer[0].upper()
  return None


def strip_markers(answer: str) -> str:
  """Remove the speaker marker that some models put before an answer."""
  if answer.startswith(('<1>', '<2>', '<3>')):
    return answer[3:].strip()
  return answer
