// SPDX-License-Identifier: Apache-2.0
// Resampling of a stream by a windowed sinc, from the microphone's rate to the server's.

const ZERO_CROSSINGS = 12;
const TABLE_STEPS = 256; // entries of the table per input sample

export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    // A little below the lower of the two Nyquist frequencies, against aliasing.
    const cutoff = Math.min(1, to / from) * 0.95;
    this.radius = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.table = new Float32Array(this.radius * TABLE_STEPS + 1);
    for (let i = 0; i < this.table.length; i++) {
      const x = i / TABLE_STEPS;
      const angle = Math.PI * cutoff * x;
      const sinc = i === 0 ? 1 : Math.sin(angle) / angle;
      this.table[i] = cutoff * sinc * Math.cos((Math.PI / 2) * (x / this.radius)) ** 2;
    }
    this.input = new Float32Array(this.radius); // silence before the first sample
    this.position = this.radius; // of the next output sample, in `input`
  }

  /** Returns the samples that are complete with this input. */
  push(samples) {
    const input = new Float32Array(this.input.length + samples.length);
    input.set(this.input);
    input.set(samples, this.input.length);
    const output = [];
    while (this.position + this.radius < input.length) {
      const last = Math.floor(this.position + this.radius);
      let sum = 0;
      for (let i = Math.ceil(this.position - this.radius); i <= last; i++) {
        sum +=
          input[i] * this.table[Math.round(Math.abs(this.position - i) * TABLE_STEPS)];
      }
      output.push(sum);
      this.position += this.step;
    }
    const read = Math.floor(this.position) - this.radius;
    this.input = input.slice(read);
    this.position -= read;
    return output;
  }

  /** Returns what is left, as if silence followed. */
  flush() {
    return this.push(new Float32Array(this.radius));
  }
}
