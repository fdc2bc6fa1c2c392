// SPDX-License-Identifier: Apache-2.0
// Shows the turns of a conversation. Whatever was said or generated is set as text,
// never as HTML.

import { showHeard } from './heard.js';
import { clock } from './sound.js';
import { drawWaveform, showProgress } from './waveform.js';

const NEAR_BOTTOM = 120; // pixels; whoever has scrolled further up is not moved

export class TurnsView {
  /** `onPlay` is called with a turn whose sound is to be played or stopped. */
  constructor({ list, scroll, welcome, template }, onPlay) {
    Object.assign(this, { list, scroll, welcome, template, onPlay });
    this.shown = new Map(); // key of a turn -> its element
  }

  clear() {
    this.list.replaceChildren();
    this.shown.clear();
    this.welcome.hidden = false;
  }

  show(turn) {
    const { scroll } = this;
    const below = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;
    const element = this.shown.get(turn.key) ?? this.add(turn);
    fill(element, turn);
    this.welcome.hidden = true;
    if (below < NEAR_BOTTOM || turn.status === 'recording') this.scrollToEnd();
  }

  scrollToEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  add(turn) {
    const element = this.template.content.cloneNode(true).querySelector('.turn');
    element.classList.add(turn.role);
    element.querySelector('h3').textContent = turn.role === 'user' ? 'You' : 'Reply';
    element.querySelector('.play').addEventListener('click', () => this.onPlay(turn));
    this.shown.set(turn.key, element);
    this.list.append(element);
    return element;
  }

  drop(turn) {
    this.shown.get(turn.key)?.remove();
    this.shown.delete(turn.key);
    this.welcome.hidden = this.shown.size > 0;
  }

  /** Marks the turn that plays; `fraction` of its sound was heard. */
  progress(turn, fraction, playing) {
    const element = this.shown.get(turn.key);
    if (!element) return;
    element.classList.toggle('playing', playing);
    showProgress(element.querySelector('.wave'), fraction);
    labelPlay(element, turn, playing);
  }
}

function fill(element, turn) {
  element.dataset.status = turn.status;
  setText(element.querySelector('.file'), turn.name);
  fillSound(element, turn);
  fillHeard(element.querySelector('.heard'), turn);
  const text = element.querySelector('.text');
  text.querySelector('.said').textContent = turn.text;
  text.querySelector('.unheard').textContent = turn.unheard ?? '';
  text.hidden = !turn.text && !turn.unheard && turn.status !== 'streaming';
  setText(element.querySelector('.facts'), facts(turn));
}

function setText(element, text) {
  element.textContent = text ?? '';
  element.hidden = !text;
}

function fillSound(element, turn) {
  const sound = element.querySelector('.sound');
  sound.hidden = !turn.peaks;
  if (!turn.peaks || sound.dataset.seconds === `${turn.seconds}`) return;
  sound.dataset.seconds = turn.seconds;
  const wave = sound.querySelector('.wave');
  drawWaveform(wave, turn.peaks);
  wave.setAttribute('aria-label', `Waveform, ${turn.seconds.toFixed(1)} seconds`);
  sound.querySelector('.length').textContent = clock(turn.seconds);
  labelPlay(element, turn, element.classList.contains('playing'));
}

function labelPlay(element, turn, playing) {
  const what = turn.role === 'user' ? 'your recording' : 'the reply';
  const button = element.querySelector('.play');
  button.setAttribute('aria-label', `${playing ? 'Stop' : 'Play'} ${what}`);
  const icon = playing ? '#square' : '#play';
  button.querySelector('use').setAttribute('href', icon);
}

function fillHeard(paragraph, { role, status, heard, seconds }) {
  const waits = role === 'user' && status === 'recording';
  paragraph.hidden = !heard && !waits;
  paragraph.classList.toggle('waits', waits && !heard);
  // Words under the focus stay, so they are only made anew when they differ.
  const version = heard ? `${heard.text} ${heard.tokens.length}` : 'none';
  if (paragraph.dataset.version === version) return;
  paragraph.dataset.version = version;
  if (heard?.text) showHeard(paragraph, heard.text, heard.tokens);
  else paragraph.textContent = heard && seconds ? '(no words heard)' : '';
}

const STATUS = {
  recording: 'Recording',
  waiting: 'Sent as soon as the server is back',
  cut: 'Interrupted; what is grey was not heard',
  cancelled: 'Stopped',
  incomplete: 'Reached the limit of length',
  failed: 'Broken off',
};

/** The line below a turn: what became of it, and how long it took. */
function facts({ role, status, timing, unheard }) {
  const what = status === 'cut' && !unheard ? 'Interrupted' : STATUS[status];
  const parts = what ? [what] : [];
  if (role === 'assistant' && timing) {
    const { word, sound, server } = timing;
    if (word !== undefined) parts.push(`first word ${seconds(word)}`);
    if (sound !== undefined) parts.push(`voice ${seconds(sound)}`);
    if (server?.hear_ms !== undefined) parts.push(`heard in ${seconds(server.hear_ms / 1000)}`);
  }
  return parts.join(' · ');
}

function seconds(value) {
  return `${value.toFixed(value < 1 ? 2 : 1)} s`;
}
