// What the page asks of the server, and the socket over which it is told.
import { kept } from "./dom.js";

let visitor = kept("visitor");
if (!visitor) {
  visitor = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
  kept("visitor", visitor);
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "X-Visitor": visitor, ...options.headers } });
  } catch {
    throw new Error("the studio does not answer; is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `the studio answers ${answer.status}`);
  return content;
}
const run = (name) => `/api/runs/${encodeURIComponent(name)}`;
const post = (path, content) => ask(path, { method: "POST", body: JSON.stringify(content),
  headers: { "Content-Type": "application/json" } });

export const api = {
  about: () => ask("/api/about"),
  runs: async () => (await ask("/api/runs")).runs,
  run: (name) => ask(run(name)),
  create: (story) => post("/api/runs", story),
  act: (name, action, content = {}) => post(`${run(name)}/${action}`, content),
  words: (captions) => post("/api/words", { captions }),
  story: (story) => post("/api/story", { story }),
  upload: async (file, kind) => (await ask(`/api/uploads?kind=${kind}`, { method: "POST", body: file })).name,
  still: (name, chunk, key) => `${run(name)}/still/${chunk}?key=${key || ""}`,
  file: (name, file, download = false) => `${run(name)}/file/${file}${download ? "?download" : ""}`,
};

// The socket: opened again whenever it breaks, and then told what the page has already.
export class Line {
  constructor(hear, say) {
    this.hear = hear;
    this.say = say;
    this.watched = () => ({ runs: [], have: [] });
    this.wait = 500;
    this.open();
  }

  open() {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.wait = 500;
      this.say("connected", true);
      this.watch();
      this.hear({ type: "runs" });
      this.hear({ type: "changed" });
    };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") return this.hear(JSON.parse(data));
      const size = new DataView(data).getUint32(0);
      const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
      this.hear(head, new Uint8Array(data, 4 + size));
    };
    this.socket.onclose = () => {
      this.say("the studio is away, trying again", false);
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(2 * this.wait, 8000);
    };
  }

  watch(watched = this.watched) {
    this.watched = watched;
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify({ type: "watch", ...watched() }));
  }
}
