# SPDX-License-Identifier: Apache-2.0
"""Languages of translations: their names, and their tokenisers in sacreBLEU."""

# Written with spaces between words, which is what tokeniser 13a splits at.
_SPACED = {
  'af': 'Afrikaans',
  'ar': 'Arabic',
  'be': 'Belarusian',
  'bg': 'Bulgarian',
  'bn': 'Bengali',
  'bs': 'Bosnian',
  'ca': 'Catalan',
  'cs': 'Czech',
  'cy': 'Welsh',
  'da': 'Danish',
  'de': 'German',
  'el': 'Greek',
  'en': 'English',
  'eo': 'Esperanto',
  'es': 'Spanish',
  'et': 'Estonian',
  'eu': 'Basque',
  'fa': 'Persian',
  'fi': 'Finnish',
  'fr': 'French',
  'ga': 'Irish',
  'gl': 'Galician',
  'he': 'Hebrew',
  'hi': 'Hindi',
  'hr': 'Croatian',
  'hu': 'Hungarian',
  'hy': 'Armenian',
  'id': 'Indonesian',
  'is': 'Icelandic',
  'it': 'Italian',
  'lt': 'Lithuanian',
  'lv': 'Latvian',
  'mk': 'Macedonian',
  'mt': 'Maltese',
  'nl': 'Dutch',
  'no': 'Norwegian',
  'pl': 'Polish',
  'pt': 'Portuguese',
  'ro': 'Romanian',
  'ru': 'Russian',
  'sk': 'Slovak',
  'sl': 'Slovenian',
  'sq': 'Albanian',
  'sr': 'Serbian',
  'sv': 'Swedish',
  'sw': 'Swahili',
  'ta': 'Tamil',
  'te': 'Telugu',
  'tr': 'Turkish',
  'uk': 'Ukrainian',
  'ur': 'Urdu',
  'vi': 'Vietnamese',
}
_OTHERS = {'ja': 'Japanese', 'ko': 'Korean', 'zh': 'Chinese'}
# Known by name, so that an error can say why they are refused.
_UNSPACED = {
  'bo': 'Tibetan',
  'dz': 'Dzongkha',
  'km': 'Khmer',
  'lo': 'Lao',
  'my': 'Burmese',
  'th': 'Thai',
}

NAMES = {**_SPACED, **_OTHERS, **_UNSPACED}
TOKENISERS = {
  **dict.fromkeys(_SPACED, '13a'),
  'ja': 'ja-mecab',
  'ko': 'ko-mecab',
  'zh': 'zh',
}


def primary_language(code: str) -> str:
  """Return the language of a code without its region: 'pt' of 'pt-BR'."""
  return code.strip().replace('_', '-').split('-')[0].lower()
