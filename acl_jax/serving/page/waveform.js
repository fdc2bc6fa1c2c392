// SPDX-License-Identifier: Apache-2.0
// Two pictures of sound: the row of bars that moves at the button while somebody
// speaks, and the waveform of a finished recording.

const BAR = 3; // width of a bar and of the gap after it, in CSS pixels
const SPACE = 62; // kept free for the button, from the middle
const SHAPE = 'http://www.w3.org/2000/svg';

/** Bars that start at the button and travel outwards on both sides. */
export class LiveWaveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    this.still = matchMedia('(prefers-reduced-motion: reduce)');
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      this.draw();
    });
  }

  /** Adds a loudness in [0, 1]; speech is mostly below 0.3. */
  push(level) {
    const height = Math.min(1, Math.sqrt(level) * 1.5);
    if (this.still.matches) this.levels = new Array(400).fill(height);
    else this.levels.unshift(height);
    this.levels.length = Math.min(this.levels.length, 400);
    this.draw();
  }

  draw() {
    const { canvas, levels } = this;
    const scale = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext('2d');
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const [quiet, loud] = [style.getPropertyValue('--quiet'), style.color];
    const count = Math.floor((width / 2 - SPACE) / (2 * BAR));
    for (let i = 0; i < count; i++) {
      const bar = Math.max(BAR, (levels[i] ?? 0) * (height - 8));
      pen.fillStyle = bar > BAR ? loud : quiet;
      pen.globalAlpha = (1 - i / count) ** 0.8;
      for (const side of [-1, 1]) {
        const x = width / 2 + side * (SPACE + i * 2 * BAR) - BAR / 2;
        pen.beginPath();
        pen.roundRect(x, (height - bar) / 2, BAR, bar, BAR / 2);
        pen.fill();
      }
    }
  }

  clear() {
    this.levels = [];
    this.draw();
  }
}

/** Draws peaks in [0, 1] into an <svg>: once for the whole, once for what was played. */
export function drawWaveform(svg, peaks) {
  const loudest = Math.max(0.1, ...peaks);
  const bars = peaks.map((peak, i) => {
    const half = Math.max(0.5, (peak / loudest) * 15);
    return `M${i + 0.5} ${16 - half}V${16 + half}`;
  });
  svg.setAttribute('viewBox', `0 0 ${peaks.length} 32`);
  svg.replaceChildren(
    ...['whole', 'played'].map((name) => {
      const path = document.createElementNS(SHAPE, 'path');
      path.setAttribute('class', name);
      path.setAttribute('d', bars.join(''));
      return path;
    }),
  );
  showProgress(svg, 0);
}

/** Colours the part that was played; `fraction` is in [0, 1]. */
export function showProgress(svg, fraction) {
  const played = svg.querySelector('.played');
  if (played) played.style.clipPath = `inset(0 ${100 - fraction * 100}% 0 0)`;
}
