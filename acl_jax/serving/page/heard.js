// SPDX-License-Identifier: Apache-2.0
// What the model's own ears heard, word by word, and where they were unsure.

const SURE = Math.log(0.6); // words whose weakest token is below are marked
const MAX_ALTERNATIVES = 4;

/**
 * Splits a transcript into {text, sure, alternatives: [{text, probability}]}.
 * Tokens are found in the transcript one after another, so that it does not matter
 * how a tokenizer writes spaces.
 */
export function splitWords(transcript, tokens) {
  const words = [...transcript.matchAll(/\S+/g)].map(({ 0: text, index }) => {
    return { text, start: index, end: index + text.length, weakest: null };
  });
  let at = 0;
  for (const token of tokens) {
    const text = token.token.trim();
    const start = text ? transcript.indexOf(text, at) : -1;
    if (start < 0) continue;
    at = start + text.length;
    const word = words.find(({ end }) => start < end);
    if (word && (!word.weakest || token.logprob < word.weakest.logprob)) {
      word.weakest = { ...token, text, offset: start - word.start };
    }
  }
  return words.map(({ text, weakest }) => {
    const sure = !weakest || weakest.logprob >= SURE;
    return { text, sure, alternatives: sure ? [] : alternativesOf(text, weakest) };
  });
}

/** The word with its weakest token replaced by each of its alternatives. */
function alternativesOf(word, { text, offset, alternatives }) {
  const others = (alternatives ?? []).filter(({ token }) => token.trim() !== text);
  return others.slice(0, MAX_ALTERNATIVES).map(({ token, logprob }) => ({
    text: word.slice(0, offset) + token.trim() + word.slice(offset + text.length),
    probability: Math.exp(logprob),
  }));
}

function describe(alternatives) {
  if (!alternatives.length) return 'not sure of this word';
  const others = alternatives.map(({ text, probability }) => {
    return `${text || '(nothing)'} ${Math.round(probability * 100)}%`;
  });
  return `or: ${others.join(', ')}`;
}

/** Shows a transcript; each unsure word is a button that tells its alternatives. */
export function showHeard(paragraph, transcript, tokens) {
  const parts = splitWords(transcript, tokens).flatMap((word, i) => {
    const space = i ? [' '] : [];
    if (word.sure) return [...space, word.text];
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'unsure';
    button.textContent = word.text;
    button.dataset.alternatives = describe(word.alternatives);
    button.setAttribute('aria-describedby', 'alternatives');
    return [...space, button];
  });
  paragraph.replaceChildren(...parts);
}

/** Makes the one tooltip follow the pointer and the focus. */
export function followUnsureWords(container, tooltip) {
  const show = ({ target }) => {
    if (!target.matches?.('.unsure')) return;
    tooltip.textContent = target.dataset.alternatives;
    tooltip.hidden = false;
    const word = target.getBoundingClientRect();
    const left = word.left + word.width / 2 - tooltip.offsetWidth / 2;
    const rightmost = innerWidth - tooltip.offsetWidth - 8;
    tooltip.style.left = `${Math.max(8, Math.min(left, rightmost))}px`;
    tooltip.style.top = `${word.top - tooltip.offsetHeight - 6}px`;
  };
  const hide = () => (tooltip.hidden = true);
  for (const event of ['pointerover', 'focusin', 'click']) {
    container.addEventListener(event, show);
  }
  for (const event of ['pointerout', 'focusout', 'scroll']) {
    container.addEventListener(event, hide, { passive: true });
  }
  document.addEventListener('keydown', ({ key }) => key === 'Escape' && hide());
}
