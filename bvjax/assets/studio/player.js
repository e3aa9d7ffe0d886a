// Two players with one face: pieces of mp4 through Media Source Extensions, or JPEG frames on a canvas.
import { button, clock, h } from "./dom.js";

export const pictures = !("MediaSource" in window) || new URLSearchParams(location.search).has("jpeg");
export const latency = []; // seconds from a new chunk being ready to its first picture on screen
window.studioLatency = latency;

export function makePlayer(label) {
  return pictures ? new PicturePlayer(label) : new MediaPlayer(label);
}

class Player {
  constructor() {
    this.pieces = new Map(); // chunk: {key, start, length}
    this.ontime = () => {};
  }

  has(key) {
    return [...this.pieces.values()].some((piece) => piece.key === key);
  }

  keys() {
    return [...this.pieces.values()].map((piece) => piece.key);
  }

  get end() {
    return Math.max(0, ...[...this.pieces.values()].map((piece) => piece.start + piece.length));
  }

  // Takes out what is not in the run any more: {chunk: key} of what is.
  keep(keys) {
    for (const [chunk, piece] of this.pieces) if (keys[chunk] !== piece.key) this.drop(chunk, piece);
  }
}

class MediaPlayer extends Player {
  constructor(label) {
    super();
    this.video = h("video", { controls: true, muted: true, playsInline: true, "aria-label": label });
    this.node = this.video;
    this.jobs = [];
    this.fresh = [];
    this.source = new MediaSource();
    this.video.src = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => this.next());
    this.video.addEventListener("timeupdate", () => this.ontime(this.video.currentTime));
    this.wants = true; // to play as soon as there is something
    this.video.addEventListener("pause", () => { if (!this.video.ended) this.wants = false; });
    this.video.addEventListener("play", () => { this.wants = true; });
  }

  add(piece, bytes) {
    if (this.pieces.get(piece.chunk)?.key === piece.key) return;
    this.pieces.set(piece.chunk, piece);
    this.jobs.push((buffer) => {
      buffer.timestampOffset = piece.start;
      buffer.appendBuffer(bytes);
      return () => this.appended(piece);
    });
    this.codec = piece.codec;
    this.next();
  }

  drop(chunk, piece) {
    this.pieces.delete(chunk);
    this.jobs.push((buffer) => {
      buffer.remove(piece.start, piece.start + piece.length);
    });
    this.next();
  }

  next() {
    if (this.busy || !this.jobs.length || this.source.readyState === "closed" || !this.codec) return;
    if (!this.buffer) {
      this.buffer = this.source.addSourceBuffer(`video/mp4; codecs="${this.codec}"`);
      this.buffer.addEventListener("updateend", () => {
        this.busy = false;
        this.after?.();
        this.next();
      });
    }
    if (this.buffer.updating) return;
    this.busy = true;
    this.after = null;
    try {
      this.after = this.jobs.shift()(this.buffer) || null;
    } catch (error) {
      this.busy = false;
      console.error("a piece of video was refused", error);
    }
    if (this.busy && !this.buffer.updating) { this.busy = false; this.after?.(); this.next(); }
  }

  appended(piece) {
    if (piece.fresh && this.video.requestVideoFrameCallback) {
      // What is watched at its end goes on with the new chunk: that moment is measured.
      const atEnd = piece.start - this.video.currentTime < 0.3;
      const seen = (_, frame) => {
        if (frame.mediaTime + 0.001 >= piece.start && this.pieces.get(piece.chunk)?.key === piece.key) {
          latency.push({ chunk: piece.chunk, seconds: Date.now() / 1000 - piece.made, atEnd });
        } else this.video.requestVideoFrameCallback(seen);
      };
      if (atEnd) this.video.requestVideoFrameCallback(seen);
    }
    if (this.wants && this.video.paused) this.video.play().catch(() => {});
  }

  close() {
    this.video.pause();
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.load();
  }

  get time() { return this.video.currentTime; }
  seek(seconds) { this.video.currentTime = seconds + 0.01; }
  play() { this.video.play().catch(() => {}); }
  pause() { this.video.pause(); }
  get playing() { return !this.video.paused; }
}

class PicturePlayer extends Player {
  constructor(label) {
    super();
    this.canvas = h("canvas", { role: "img", "aria-label": label, width: 256, height: 256 });
    this.toggle = button("Play", () => (this.playing ? this.pause() : this.play()), { className: "small" });
    this.range = h("input", { type: "range", min: 0, max: 0, step: 0.01, value: 0, "aria-label": "Time in the video",
      oninput: () => { this.seek(Number(this.range.value)); } });
    this.said = h("span", { className: "quiet" }, "0:00");
    this.node = h("div", { className: "pictures" }, this.canvas, h("div", { className: "row" }, this.toggle, this.range, this.said));
    this.now = 0;
    this.playing = true;
    this.last = performance.now();
    this.loop = this.loop.bind(this);
    requestAnimationFrame(this.loop);
  }

  async add(piece, bytes) {
    if (this.pieces.get(piece.chunk)?.key === piece.key) return;
    this.pieces.set(piece.chunk, piece);
    let at = 0;
    const blobs = piece.sizes.map((size) => new Blob([bytes.slice(at, (at += size))], { type: "image/jpeg" }));
    piece.frames = await Promise.all(blobs.map((blob) => createImageBitmap(blob)));
    this.range.max = this.end;
    if (piece.fresh && piece.start - this.now < 0.3) this.waiting = piece;
  }

  drop(chunk) {
    this.pieces.delete(chunk);
    this.range.max = this.end;
  }

  loop(moment) {
    if (this.closed) return;
    const passed = (moment - this.last) / 1000;
    this.last = moment;
    if (this.playing) this.now = Math.min(this.now + passed, Math.max(0, this.end - 1e-3));
    for (const piece of this.pieces.values()) {
      if (!piece.frames || this.now < piece.start || this.now >= piece.start + piece.length) continue;
      const picture = piece.frames[Math.min(piece.frames.length - 1, Math.floor((this.now - piece.start) * piece.fps))];
      if (picture !== this.shown) {
        if (this.canvas.width !== picture.width) [this.canvas.width, this.canvas.height] = [picture.width, picture.height];
        this.canvas.getContext("2d").drawImage(picture, 0, 0);
        this.shown = picture;
        if (this.waiting === piece) {
          latency.push({ chunk: piece.chunk, seconds: Date.now() / 1000 - piece.made, atEnd: true });
          this.waiting = null;
        }
        this.ontime(this.now);
      }
    }
    this.range.value = this.now;
    this.said.textContent = clock(this.now);
    this.toggle.lastChild.textContent = this.playing ? "Pause" : "Play";
    requestAnimationFrame(this.loop);
  }

  close() { this.closed = true; }
  get time() { return this.now; }
  seek(seconds) { this.now = Math.max(0, Math.min(seconds + 0.01, this.end)); this.shown = null; }
  play() { if (this.now >= this.end - 0.2) this.now = 0; this.playing = true; }
  pause() { this.playing = false; }
}
