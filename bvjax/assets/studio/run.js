// One run: its player, its chunks, its story, what it looked at, and how it drifts.
import { api } from "./api.js";
import { ROLES, curves, lookedAt } from "./charts.js";
import { change } from "./change.js";
import { button, h, kept, lasts, later, put, toast } from "./dom.js";
import { remove } from "./delete.js";
import { Captions } from "./editor.js";
import { path, stateText, versionList } from "./gallery.js";
import { loraPanel, nextFree } from "./loras.js";
import { makePlayer } from "./player.js";

export class RunView {
  constructor(name, other, about, line) {
    Object.assign(this, { name, other, about, line, selected: null, info: null, otherInfo: null, previews: new Map() });
    this.player = makePlayer("The video");
    this.player.ontime = (time) => this.at(time);
    this.twin = other ? makePlayer("The video to compare with") : null;
    this.heading = h("h1", {}, name);
    this.status = h("p", { className: "status", role: "status", "aria-live": "polite" });
    this.bar = h("div", { className: "bar2" });
    this.controls = h("div", { className: "row controls" });
    this.strip = h("ol", { className: "strip", "aria-label": "Chunks" });
    this.chosen = h("section", { className: "panel chosen" });
    this.map = h("div");
    this.drift = h("div", { className: "curves" });
    this.family = h("div");
    this.loras = h("div");
    this.story = h("section", { className: "panel story" });
    this.preview = h("img", { className: "preview", alt: "The chunk in the making", hidden: true });
    this.inTheMaking = h("div", { className: "making", hidden: true }, this.preview, h("p", {}));
    this.shape = `${about.width} / ${about.height}`;
    const stage = h("div", { className: `stage ${other ? "both" : ""}` },
      h("figure", {}, this.player.node, this.inTheMaking, other ? h("figcaption", {}, h("span", { className: "v0" }, "■ "), name) : null),
      other ? h("figure", {}, this.twin.node, h("figcaption", {}, h("span", { className: "v1" }, "■ "), h("a", { href: path("run", other) }, other))) : null);
    this.node = h("section", { className: "run" },
      h("div", { className: "head" }, h("div", {}, this.heading, this.status), this.controls), this.bar,
      h("div", { className: "work" },
        h("div", {}, stage, other ? this.together() : null, this.strip, this.chosen),
        h("aside", {}, h("section", { className: "panel" }, h("h2", {}, "What each chunk looked at"), this.map, this.legend()),
          h("section", { className: "panel" }, h("h2", {}, "Drift"), this.drift),
          about.loras.length ? h("section", { className: "panel" }, h("h2", {}, "LoRAs"), this.loras) : null)),
      this.story, h("section", { className: "panel" }, h("h2", {}, "Versions"), this.family));
    this.soon = later(120, () => this.load());
    this.familySoon = later(400, () => this.loadFamily());
    line.watch(() => ({ runs: [name, ...(other ? [other] : [])], pictures: !("video" in this.player),
      have: [...this.player.keys(), ...(this.twin ? this.twin.keys() : [])] }));
    this.load();
    this.loadFamily();
  }

  async load() {
    let info;
    try {
      info = await api.run(this.name);
      this.otherInfo = this.other ? await api.run(this.other) : null;
    } catch (error) {
      if (!this.info) this.node.replaceChildren(h("p", { className: "empty" }, error.message));
      return;
    }
    const before = this.info;
    this.info = info;
    const keys = Object.fromEntries(Object.entries(info.pieces).map(([chunk, piece]) => [chunk, piece.key]));
    const lost = [...this.player.pieces.keys()].some((chunk) => keys[chunk] !== this.player.pieces.get(chunk).key);
    this.player.keep(keys);
    if (lost || (before && Object.keys(before.pieces).length < Object.keys(keys).length && Object.keys(keys).length > this.player.pieces.size)) this.line.watch();
    if (this.selected === null && info.done) this.selected = 1;
    if (this.selected > info.chunks) this.selected = info.chunks;
    this.draw();
    if (!before || JSON.stringify(before.captions) !== JSON.stringify(info.captions)) this.drawStory();
    else this.editor?.lock(this.madeRows());
    this.storyTools();
  }

  async loadFamily() {
    const runs = await api.runs().catch(() => []);
    put(this.family, versionList(runs, this.name, (name) => { location.hash = path("run", this.name, "with", name); }),
      this.other ? button("End the comparison", () => { location.hash = path("run", this.name); }, { kind: "small" }) : null);
  }

  // How many captions cannot be edited: their chunks are there, and with the first frame the first one's is.
  madeRows() {
    const { done, pieces, image, given } = this.info;
    return Math.max(done, given, "0" in pieces && !image ? 1 : 0);
  }

  // ---- drawn --------------------------------------------------------------------------------
  draw() {
    const { info } = this, state = info.now.state;
    document.title = `${info.title} · bvjax studio`;
    this.heading.textContent = info.title;
    const busy = ["waiting", "working", "pausing"].includes(state);
    const can = info.ours;
    this.controls.replaceChildren(...[
      !can ? h("p", { className: "quiet" }, "made with other weights: it can be watched here") : null,
      can && !busy && !info.finished ? button(info.done ? "Go on" : "Make it", () => this.act("go"), { kind: "primary", sign: "play" }) : null,
      can && busy ? button("Pause", () => this.act("pause"), { sign: "pause", disabled: state === "pausing", title: "After the chunk at work; it stays in memory, so going on is quick" }) : null,
      can && (busy || state === "paused") ? button("Stop", () => this.act("stop"), { sign: "stop", title: "After the chunk at work; the run is let go of, and the command line can open it" }) : null,
      info.video ? h("a", { className: "button", href: api.file(this.name, "video.mp4", true), download: "" }, "Download mp4") : null,
      info.report ? h("a", { className: "button", href: api.file(this.name, "report.png"), target: "_blank" }, "Report") : null,
      info.now.state !== "pausing" ? button("Delete", () => remove(this), { sign: "cross", title: "For good; you are asked first" }) : null,
    ].filter(Boolean));
    this.say();
    const part = info.done / info.chunks;
    this.bar.style.setProperty("--part", `${100 * part}%`);
    this.drawStrip();
    this.drawChosen();
    this.drawCharts();
    this.drawLoras();
  }

  drawLoras() {
    const { info } = this, state = JSON.stringify([info.loras, nextFree(info), info.chunks, info.ours]);
    if (state === this.lorasDrawn) return; // sliders stay where they were put
    this.lorasDrawn = state;
    this.loras.replaceChildren(...loraPanel(this));
  }

  say(note = "") {
    const { info } = this, now = info.now;
    const texts = { working: note || `Making chunk ${Math.min(info.done + 1, info.chunks)} of ${info.chunks}.`,
      pausing: "Pausing when the chunk at work is finished.",
      paused: `Paused after chunk ${info.done} of ${info.chunks}.`, failed: `It failed: ${now.error || "see the log"}.` };
    if (now.state === "waiting") texts.waiting = now.place > 1 ? `Waiting: place ${now.place} of ${now.waiting} in the queue.` : "Waiting: next in the queue.";
    let text = texts[now.state] || `${stateText(info)[0].toUpperCase()}${stateText(info).slice(1)}.`;
    if (info.finished && !["working", "waiting"].includes(now.state)) text = `Finished: ${info.chunks} chunks, ${lasts(info.seconds)}.`;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.className = `status ${now.state}`;
  }

  drawStrip() {
    const { info } = this;
    const working = ["working", "pausing"].includes(info.now.state) ? info.done + 1 : 0;
    const tiles = [];
    for (let chunk = 1; chunk <= info.chunks; chunk += 1) {
      const piece = info.pieces[chunk], name = piece ? "made" : chunk === working ? "working" : "coming";
      const words = { made: "made", working: "in the making", coming: "to come" }[name];
      let tile = this.strip.children[chunk - 1];
      if (!tile) {
        tile = h("li", {}, h("button", { type: "button", onclick: () => this.select(chunk, true) },
          h("span", { className: "picture" }), h("span", { className: "number" }, `${chunk}`)));
        this.strip.append(tile);
      }
      const [pressed] = tile.children, [picture] = pressed.children;
      tile.className = name;
      pressed.setAttribute("aria-pressed", String(chunk === this.selected));
      pressed.setAttribute("aria-label", `Chunk ${chunk}, ${words}`);
      const preview = !piece && this.previews.get(chunk);
      const url = piece ? api.still(this.name, chunk, piece.key) : preview ? preview.url : "";
      if (picture.dataset.url !== url) {
        picture.dataset.url = url;
        picture.replaceChildren(...(url ? [h("img", { src: url, alt: "" })] : []));
      }
      tiles.push(tile);
    }
    while (this.strip.children.length > info.chunks) this.strip.lastChild.remove();
  }

  drawChosen() {
    const { info, selected } = this;
    if (!selected) {
      this.chosen.replaceChildren(h("p", { className: "quiet" }, "The first chunk appears here as soon as it is made."));
      return;
    }
    const piece = info.pieces[selected], drift = piece?.drift;
    const seen = piece?.retrieved || [];
    const facts = [piece?.took ? `made in ${piece.took} s` : "", drift ? `clarity ${drift.clarity}` : "", drift ? `motion ${drift.motion}` : "",
      piece?.kept ? `${Math.round(100 * piece.kept)} % of its tokens remembered` : ""].filter(Boolean).join(" · ");
    put(this.chosen,
      h("h2", {}, `Chunk ${selected}`), h("p", { className: "caption" }, info.captions[selected - 1]),
      facts ? h("p", { className: "quiet" }, facts) : null,
      seen.length ? h("div", {}, h("h3", {}, "It looked at"), h("ul", { className: "seen" }, seen.map((entry) => h("li", { className: entry.role },
        h("button", { type: "button", onclick: () => this.select(Math.max(1, entry.chunk), true), "aria-label":
          `${entry.chunk ? `Chunk ${entry.chunk}` : "The first frame"}, ${ROLES[entry.role] || entry.role}` },
        info.pieces[entry.chunk] ? h("img", { src: api.still(this.name, entry.chunk, info.pieces[entry.chunk].key), alt: "" }) : h("span", { className: "blank" }),
        h("span", {}, entry.chunk ? `chunk ${entry.chunk}` : "first frame"),
        h("small", {}, ROLES[entry.role] || entry.role, entry.role === "semantic" ? ` ${entry.score.toFixed(2)}` : "")))))) : null,
      info.ours && piece ? h("div", { className: "row actions" },
        button("Branch from here", () => change(this, "branch"), { sign: "branch", title: "Keep this version, and make another that goes its own way from this chunk on" }),
        button("Make again from here", () => change(this, "redo"), { sign: "again", title: "With other captions or another seed; the old chunks go to the run's archive" }),
        selected < info.done ? button(`Take back to chunk ${selected}`, () => this.takeBack(), { sign: "back", title: "Take all chunks after this one out; they go to the run's archive" }) : null) : null);
  }

  drawCharts() {
    const { info } = this, select = (chunk) => this.select(chunk, true);
    const shown = [{ label: this.name, chunks: info.pieces }];
    if (this.otherInfo) shown.push({ label: this.other, chunks: this.otherInfo.pieces });
    this.drift.replaceChildren(...curves(shown, Math.max(info.chunks, this.otherInfo?.chunks || 0), this.selected, select));
    this.map.replaceChildren(lookedAt(info.pieces, info.chunks, this.selected, select));
  }

  legend() {
    return h("ul", { className: "legend" }, Object.entries(ROLES).map(([role, text]) => h("li", { className: role }, text)));
  }

  together() {
    const both = (call) => { call(this.player); call(this.twin); };
    return h("div", { className: "row" }, button("Play both from the start", () => both((p) => { p.seek(0); p.play(); }), { sign: "play" }),
      button("Pause both", () => both((p) => p.pause()), { sign: "pause" }),
      h("span", { className: "quiet" }, "Both go to the chunk that you choose."));
  }

  // ---- the story ----------------------------------------------------------------------------
  drawStory() {
    const { info } = this, edits = kept(`edits ${this.name}`);
    const captions = edits && edits.length >= this.madeRows() ? [...info.captions.slice(0, this.madeRows()), ...edits.slice(this.madeRows())] : info.captions;
    this.editor = new Captions(captions, { about: this.about, first: info.first_seconds, locked: this.madeRows(), onchange: () => this.edited() });
    this.tools = h("div", { className: "row" });
    this.story.replaceChildren(h("h2", {}, "Story"), h("p", { className: "quiet" },
      "Captions of chunks to come can be changed while the video is made, and more added at the end. What is made is locked: branch from it, or make it again."),
    this.editor.node, this.tools);
    this.edited();
  }

  edited() {
    const changed = JSON.stringify(this.editor?.values) !== JSON.stringify(this.info.captions);
    kept(`edits ${this.name}`, changed ? this.editor.values : null);
    this.storyTools();
  }

  storyTools() {
    if (!this.editor || !this.tools) return;
    const changed = JSON.stringify(this.editor.values) !== JSON.stringify(this.info.captions);
    const add = button("Add a caption", () => { this.editor.insert(this.editor.rows.length); this.editor.after(this.editor.rows.length - 1); }, { sign: "plus" });
    const save = button("Use these captions", () => this.saveStory(), { kind: "primary" });
    const undo = button("Undo the changes", () => { kept(`edits ${this.name}`, null); this.drawStory(); });
    const wanted = !this.info.ours ? [] : changed ? [add, save, undo] : [add];
    if (this.tools.children.length !== wanted.length) this.tools.replaceChildren(...wanted);
  }

  async saveStory() {
    const captions = this.editor.values, empty = captions.findIndex((caption) => !caption);
    if (empty >= 0) return toast(`Caption ${empty + 1} is empty.`);
    const idle = !["waiting", "working", "pausing", "paused"].includes(this.info.now.state);
    const whole = this.info.done === captions.length || (idle && this.info.finished);
    const from = captions.findIndex((caption, index) => caption !== this.info.captions[index]) + 1;
    try {
      await api.act(this.name, "captions", { captions });
      kept(`edits ${this.name}`, null);
      toast(from ? `Used from chunk ${from} on.` : `The story ends with chunk ${captions.length}.`, "good");
      if (whole) await this.act("go"); // a finished story goes on, one that ends here is finished
      await this.load();
    } catch (error) { toast(error.message); }
  }

  // ---- asked for ----------------------------------------------------------------------------
  async act(action, content) {
    try {
      await api.act(this.name, action, content);
      this.load();
    } catch (error) { toast(error.message); }
  }

  async takeBack() {
    await this.act("take-back", { keep: this.selected });
    toast(`Chunks after ${this.selected} are in the run's archive. Change the captions to come, then go on.`, "good");
  }

  select(chunk, seek = false) {
    this.selected = chunk;
    const piece = this.player.pieces.get(chunk);
    // What people choose stays chosen: while the player cannot go there yet, what it plays chooses nothing.
    this.awaited = seek && !piece ? chunk : null;
    if (seek && piece) { this.player.seek(piece.start); this.twin?.seek(piece.start); }
    this.drawStrip();
    this.drawChosen();
    this.drawCharts();
  }

  at(time) {
    if (this.awaited) {
      if (this.player.pieces.has(this.awaited)) this.select(this.awaited, true);
      return;
    }
    for (const [chunk, piece] of this.player.pieces) {
      if (chunk > 0 && time >= piece.start && time < piece.start + piece.length && chunk !== this.selected && this.player.playing) this.select(chunk);
    }
  }

  // ---- told ---------------------------------------------------------------------------------
  hear(message, bytes) {
    const own = message.run === this.name;
    if (message.type === "chunk") {
      (own ? this.player : message.run === this.other ? this.twin : null)?.add(message, bytes);
      if (own && this.info) {
        this.info.pieces[message.chunk] = { ...this.info.pieces[message.chunk], ...message.facts, key: message.key };
        this.info.done = Math.max(this.info.done, message.chunk);
        this.previews.delete(message.chunk);
        this.inTheMaking.hidden = true;
        if (this.selected === null && message.chunk > 0) this.selected = 1;
      }
      this.drawSoon();
    } else if (message.type === "drift" && own && this.info) {
      Object.assign(this.info.pieces[message.chunk] ||= {}, { drift: message.drift });
      this.drawSoon();
    } else if (message.type === "deleted" && own) {
      kept(`edits ${this.name}`, null);
      toast(`${this.info?.title || this.name} has been deleted.`, "good");
      location.hash = "#/";
    } else if (message.type === "preview" && own) this.showPreview(message, bytes);
    else if (message.type === "note" && own && this.info) this.say(message.text);
    else if (message.type === "state" && own && this.info) {
      const changed = this.info.now.state !== message.state;
      this.info.now = message;
      if (changed) { this.soon(); this.familySoon(); } else this.say();
    } else if (message.type === "changed" && (own || !message.run)) this.soon();
    else if (message.type === "runs") { this.familySoon(); this.soon(); }
  }

  drawSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => { if (this.info) { this.draw(); this.editor?.lock(this.madeRows()); } });
  }

  showPreview(message, bytes) {
    const old = this.previews.get(message.chunk);
    if (old) URL.revokeObjectURL(old.url);
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    this.previews.set(message.chunk, { url });
    this.preview.src = url;
    this.preview.hidden = this.inTheMaking.hidden = false;
    const name = message.chunk ? `chunk ${message.chunk}` : "the first frame";
    this.inTheMaking.lastChild.textContent = `${name}, step ${message.step} of ${message.steps}`;
    if (this.info) this.drawStrip();
  }

  close() {
    this.player.close();
    this.twin?.close();
    this.line.watch(() => ({ runs: [], have: [] }));
    for (const { url } of this.previews.values()) URL.revokeObjectURL(url);
  }
}
