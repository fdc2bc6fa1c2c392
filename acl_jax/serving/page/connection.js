// SPDX-License-Identifier: Apache-2.0
// The WebSocket to /v1/realtime; it comes back by itself when the server does.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 10_000;

/** Dispatches `event` for each message of the server, and `status` when that changes. */
export class Connection extends EventTarget {
  constructor() {
    super();
    this.status = 'connecting'; // 'connecting' | 'open' | 'waiting'
    this.generation = 0; // counts connections: what was sent on one is lost with it
    this.delay = FIRST_DELAY_MS;
    window.addEventListener('online', () => this.retryNow());
  }

  /** Opens a new connection; the one before is closed. */
  connect() {
    clearTimeout(this.timer);
    this.close();
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/v1/realtime`);
    this.socket = socket;
    this.generation += 1;
    this.set('connecting');
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.receive(JSON.parse(data));
    };
    socket.onclose = () => {
      if (socket === this.socket) this.wait();
    };
  }

  receive(message) {
    this.dispatchEvent(new CustomEvent('event', { detail: message }));
    if (message.type !== 'session.created') return;
    this.delay = FIRST_DELAY_MS;
    this.set('open');
  }

  /** Sends an event if there is a connection; returns whether it did. */
  send(message) {
    if (this.status !== 'open') return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  wait() {
    this.set('waiting');
    // Not all pages at the same moment, when a server comes back.
    this.timer = setTimeout(() => this.connect(), this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
  }

  retryNow() {
    if (this.status === 'waiting') this.connect();
  }

  close() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  set(status) {
    this.status = status;
    this.dispatchEvent(new CustomEvent('status', { detail: status }));
  }
}
