// SPDX-License-Identifier: Apache-2.0
// Playback without gaps: each piece is scheduled to start when the one before ends.

import { RATE, toFloat } from './sound.js';

const LEAD_SECONDS = 0.08; // time to schedule the first piece, and after a gap
const FADE_SECONDS = 0.015; // a stop without a click

export class Player extends EventTarget {
  constructor() {
    super();
    this.current = null; // {key, pieces, end, finished}
    this.samplesReceived = 0;
    this.samplesPlayed = 0;
  }

  /** Called in the handler of a click or key: browsers allow sound only from there on. */
  unlock() {
    if (!this.context) {
      // At the rate of the sound itself, pieces join without being resampled.
      this.context = new AudioContext({ sampleRate: RATE });
      this.analyser = this.context.createAnalyser();
      this.analyser.fftSize = 512;
      this.analyser.connect(this.context.destination);
      this.wave = new Float32Array(this.analyser.fftSize);
    }
    if (this.context.state === 'suspended') this.context.resume();
  }

  get playing() {
    return this.current?.key ?? null;
  }

  /** Loudness of what is played now, in [0, 1]. */
  get level() {
    if (!this.current || !this.analyser) return 0;
    this.analyser.getFloatTimeDomainData(this.wave);
    return Math.hypot(...this.wave) / Math.sqrt(this.wave.length);
  }

  /** Adds to the sound named `key`; a new key ends the one that plays. */
  append(key, pcm) {
    this.unlock();
    if (this.current?.key !== key) this.begin(key);
    const { current, context } = this;
    if (!pcm.length) return;
    const buffer = context.createBuffer(1, pcm.length, RATE);
    buffer.copyToChannel(toFloat(pcm), 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(current.gain);
    const start = Math.max(context.currentTime + LEAD_SECONDS, current.end);
    if (start !== current.end) current.end = start;
    source.start(start);
    current.pieces.push({ source, start, seconds: buffer.duration });
    current.end = start + buffer.duration;
    this.samplesReceived += pcm.length;
    source.onended = () => {
      if (current !== this.current) return;
      this.samplesPlayed += pcm.length;
      if (current.pieces.at(-1).source === source && current.finished) this.end();
    };
  }

  begin(key) {
    this.stop();
    const gain = this.context.createGain();
    gain.connect(this.analyser);
    this.current = { key, gain, pieces: [], end: 0, finished: false };
    this.dispatchEvent(new CustomEvent('start', { detail: key }));
    this.follow();
  }

  /** Nothing more comes for `key`. */
  finish(key) {
    if (this.current?.key !== key) return;
    this.current.finished = true;
    const { pieces, end } = this.current;
    if (!pieces.length || this.context.currentTime >= end) this.end();
  }

  play(key, pcm) {
    this.append(key, pcm);
    this.finish(key);
  }

  /** Seconds of the current sound that were heard. */
  get seconds() {
    if (!this.current) return 0;
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    return this.current.pieces.reduce(
      (sum, piece) => sum + Math.max(0, Math.min(now - piece.start, piece.seconds)),
      0,
    );
  }

  /** Silence at once; returns the seconds that were heard. */
  stop() {
    if (!this.current) return 0;
    const { gain, pieces } = this.current;
    const { seconds } = this;
    const now = this.context.currentTime;
    gain.gain.setValueAtTime(1, now);
    gain.gain.linearRampToValueAtTime(0, now + FADE_SECONDS);
    for (const { source } of pieces) source.stop(now + FADE_SECONDS);
    this.end();
    return seconds;
  }

  end() {
    const { key } = this.current;
    this.current = null;
    this.dispatchEvent(new CustomEvent('end', { detail: key }));
  }

  follow() {
    const { current } = this;
    const frame = () => {
      if (current !== this.current) return;
      const detail = { key: current.key, seconds: this.seconds };
      this.dispatchEvent(new CustomEvent('progress', { detail }));
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }
}
