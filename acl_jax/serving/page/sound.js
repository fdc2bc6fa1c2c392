// SPDX-License-Identifier: Apache-2.0
// Sound as the server reads and writes it: mono PCM, int16, 24 kHz, base64 on the wire.

export const RATE = 24_000;
const MAX_FILE_BYTES = 64 * 1024 * 1024;

/** Samples in [-1, 1] as int16; whatever is beyond is clipped. */
export function toPcm(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    pcm[i] = Math.round(Math.max(-1, Math.min(1, samples[i])) * 32767);
  }
  return pcm;
}

export function toFloat(pcm) {
  const samples = new Float32Array(pcm.length);
  for (let i = 0; i < pcm.length; i++) samples[i] = pcm[i] / 32768;
  return samples;
}

export function join(chunks) {
  const pcm = new Int16Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    pcm.set(chunk, at);
    at += chunk.length;
  }
  return pcm;
}

export function toBase64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  const parts = [];
  // Every argument of a call is on the stack, so convert a piece at a time.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  }
  return btoa(parts.join(''));
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

/** Root mean square of int16 samples, in [0, 1]. */
export function level(pcm) {
  let sum = 0;
  for (const sample of pcm) sum += sample * sample;
  return Math.sqrt(sum / Math.max(1, pcm.length)) / 32768;
}

/** The loudest sample of each of `count` equal parts, in [0, 1], rounded to save space. */
export function peaks(pcm, count) {
  const size = pcm.length / count;
  return Array.from({ length: count }, (_, part) => {
    let peak = 0;
    const end = Math.floor((part + 1) * size);
    for (let i = Math.floor(part * size); i < end; i++) {
      peak = Math.max(peak, Math.abs(pcm[i]));
    }
    return Math.round(peak / 327.68) / 100;
  });
}

/** Decodes a file that the browser knows; an Error says what is wrong with it. */
export async function decodeFile(file) {
  if (file.size > MAX_FILE_BYTES) {
    const size = Math.ceil(file.size / 1024 / 1024);
    throw new Error(`${file.name} has ${size} MiB. The limit is 64 MiB.`);
  }
  const context = new OfflineAudioContext(1, 1, RATE);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`This browser cannot read ${file.name} as audio. Try wav or mp3.`);
  }
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) {
      mono[i] += samples[i] / buffer.numberOfChannels;
    }
  }
  return toPcm(mono);
}

/** Seconds as m:ss. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}
