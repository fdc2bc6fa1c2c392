// SPDX-License-Identifier: Apache-2.0
// What was streamed hands-free, so that a turn the server found in it can be replayed.

import { join, RATE } from './sound.js';

const KEPT_SAMPLES = 5 * RATE; // before speech starts; the server reports it late

export class Stream {
  constructor() {
    this.pieces = []; // {at, pcm}; `at` counts samples since the stream began
    this.length = 0;
    this.speechStart = null; // in samples, while somebody speaks
  }

  push(pcm) {
    this.pieces.push({ at: this.length, pcm });
    this.length += pcm.length;
    const oldest = this.speechStart ?? this.length - KEPT_SAMPLES;
    while (this.pieces[0].at + this.pieces[0].pcm.length < oldest) this.pieces.shift();
  }

  start(milliseconds) {
    this.speechStart = toSamples(milliseconds);
  }

  /** Returns the samples from the start of speech to `milliseconds` of the stream. */
  end(milliseconds) {
    const [start, end] = [this.speechStart, toSamples(milliseconds)];
    this.speechStart = null;
    const first = this.pieces[0]?.at ?? 0;
    const pcm = join(this.pieces.map((piece) => piece.pcm));
    return pcm.slice(Math.max(0, start - first), Math.max(0, end - first));
  }
}

function toSamples(milliseconds) {
  return Math.round((milliseconds * RATE) / 1000);
}
