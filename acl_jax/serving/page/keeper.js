// SPDX-License-Identifier: Apache-2.0
// Writes the open conversation and its sound to the storage, as they change.

import { peaks, RATE } from './sound.js';

const NUM_PEAKS = 64;
const MAX_TITLE = 60; // characters
const FULL = 'This browser has no space left: nothing more of this is kept.';

export class Keeper {
  /** `onError` receives a sentence. */
  constructor(storage, onError) {
    Object.assign(this, { storage, onError });
    this.storing = Promise.resolve(); // ends when the last sound is stored
  }

  open(conversation) {
    this.conversation = conversation;
  }

  /** Returns whether there was anything to save. */
  save() {
    const { conversation } = this;
    const turns = conversation.turns.filter(({ status }) => status !== 'recording');
    if (!turns.length) return false;
    conversation.updated = Date.now();
    conversation.title = titleOf(turns) || conversation.title;
    this.storage
      .save(structuredClone({ ...conversation, turns }))
      .catch(() => this.onError(FULL));
    return true;
  }

  keepSound(turn, pcm) {
    Object.assign(turn, { seconds: pcm.length / RATE, peaks: peaks(pcm, NUM_PEAKS) });
    const saved = this.storage.saveSound(this.conversation.id, turn.key, pcm);
    this.storing = saved.catch(() => this.onError(FULL));
  }

  /** The samples of a turn, or undefined. */
  async sound(turn) {
    const { id } = this.conversation;
    await this.storing;
    return this.storage.sound(id, turn.key);
  }

  /** Forgets the sound of a turn after `seconds`. */
  async trimSound(turn, seconds) {
    const { conversation } = this;
    const pcm = await this.sound(turn);
    if (!pcm || conversation !== this.conversation) return;
    this.keepSound(turn, pcm.slice(0, Math.round(seconds * RATE)));
  }
}

/** The first that was said, shortened. */
function titleOf(turns) {
  const own = turns.filter(({ role }) => role === 'user');
  const title = own.map(({ text, heard }) => text || heard?.text).find(Boolean) ?? '';
  return title.length > MAX_TITLE ? `${title.slice(0, MAX_TITLE - 3)}…` : title;
}
