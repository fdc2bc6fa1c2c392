// SPDX-License-Identifier: Apache-2.0
// The microphone. It stays open for a while after use, so that the next recording
// starts at once; then it is released.

const RELEASE_AFTER_MS = 20_000;

const REASONS = {
  NotAllowedError:
    'The microphone is blocked. Allow it for this page in the address bar of the ' +
    'browser, then try again. You can type or send a file meanwhile.',
  NotFoundError:
    'No microphone was found. Connect one and try again, or type or send a file.',
  NotReadableError:
    'The microphone cannot be opened; another program may be using it. Close that ' +
    'program and try again.',
};

/** Why recording is impossible on this page, or an empty text. */
export function obstacle() {
  if (!window.isSecureContext) {
    return (
      'Browsers give the microphone only to secure pages: open this one by https:// ' +
      'or at http://localhost. You can type or send a file meanwhile.'
    );
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    return 'This browser cannot record. You can type or send a file.';
  }
  return '';
}

export class Recorder {
  /** `onPiece` receives int16 samples at 24 kHz while a recording runs. */
  constructor(onPiece) {
    this.onPiece = onPiece;
    this.running = false;
    this.stream = null;
  }

  /** Opens the microphone, asking the visitor the first time; an Error says why not. */
  async open() {
    clearTimeout(this.releasing);
    this.opening ??= this.openNow().finally(() => (this.opening = null));
    return this.opening;
  }

  async openNow() {
    const reason = obstacle();
    if (reason) throw new Error(reason);
    if (this.stream?.active) return;
    this.release();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: {
          channelCount: 1,
          // The reply must not be heard as an interruption of itself.
          echoCancellation: true,
          // What it removes is missing from the words, too: France became friends.
          noiseSuppression: false,
          autoGainControl: true,
        },
      });
    } catch (error) {
      const reason = REASONS[error.name] ?? `The microphone failed: ${error.message}`;
      throw new Error(reason, { cause: error });
    }
    this.stream = stream;
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule('/page/recorder-worklet.js');
    await this.context.resume();
    this.node = new AudioWorkletNode(this.context, 'recorder', { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => this.receive(data);
    this.source = this.context.createMediaStreamSource(stream);
  }

  start() {
    clearTimeout(this.releasing);
    this.running = true;
    this.source.connect(this.node);
  }

  /** Resolves when the last piece has been handed over. */
  async stop() {
    if (!this.running) return;
    const finished = new Promise((resolve) => (this.onFinished = resolve));
    this.source.disconnect();
    this.node.port.postMessage('finish');
    await finished;
    this.running = false;
    this.releasing = setTimeout(() => this.release(), RELEASE_AFTER_MS);
  }

  receive(piece) {
    if (piece === null) this.onFinished?.();
    else if (this.running && piece.length) this.onPiece(piece);
  }

  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.context?.close();
    this.stream = this.context = this.node = this.source = null;
  }
}
