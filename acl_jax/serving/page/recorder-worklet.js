// SPDX-License-Identifier: Apache-2.0
// Runs in the audio thread: microphone to int16 at 24 kHz, in pieces of 40 ms.

import { Resampler } from './resample.js';

const RATE = 24_000;
const PIECE = 0.04 * RATE;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.stopped = false;
    this.port.onmessage = () => this.finish();
  }

  process([input]) {
    if (input.length) this.write(this.resampler.push(input[0]));
    return !this.stopped;
  }

  write(samples) {
    for (const sample of samples) {
      const clipped = Math.max(-1, Math.min(1, sample));
      this.piece[this.filled++] = Math.round(clipped * 32767);
      if (this.filled === PIECE) this.send();
    }
  }

  send() {
    this.port.postMessage(this.piece.slice(0, this.filled));
    this.filled = 0;
  }

  /** Sends what is left; an empty piece says that it was the last. */
  finish() {
    this.write(this.resampler.flush());
    this.send();
    this.filled = 0;
    this.port.postMessage(null);
    this.resampler = new Resampler(sampleRate, RATE);
  }
}

registerProcessor('recorder', Recorder);
