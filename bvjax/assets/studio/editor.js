// Captions on a time line: a row for each chunk, with its times, and words marked that the model never saw.
import { api } from "./api.js";
import { button, clock, h, later } from "./dom.js";

const WORD = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu;

export class Captions {
  // options: about, first (seconds before chunk 1 ends its own), locked (how many rows cannot be edited), onchange
  constructor(captions, options) {
    this.options = { onchange: () => {}, locked: 0, from: 1, fixed: false, ...options };
    this.node = h("ol", { className: "captions" });
    this.rows = [];
    for (const caption of captions) this.insert(this.rows.length, caption);
    this.look = later(250, () => this.check());
    this.number();
    this.check();
  }

  get values() { return this.rows.map((row) => row.area.value.trim()); }

  insert(index, text = "") {
    const row = { unknown: [] };
    const name = `caption-${Math.random().toString(36).slice(2)}`;
    row.time = h("span", { className: "time" });
    row.marks = h("div", { className: "marks", "aria-hidden": "true" });
    row.area = h("textarea", { id: name, value: text, rows: 2, spellcheck: false,
      maxLength: this.options.about.longest_caption, "aria-describedby": `${name}-words`,
      placeholder: "What is to be seen now?",
      oninput: () => { this.changed(row); }, onscroll: () => { row.marks.scrollTop = row.area.scrollTop; } });
    row.label = h("label", { htmlFor: name });
    row.words = h("p", { className: "words", id: `${name}-words` });
    const at = () => this.rows.indexOf(row);
    row.tools = h("div", { className: "tools" },
      button("", () => { this.insert(at() + 1, row.area.value); this.after(at() + 1); },
        { kind: "plain", sign: "copy", title: "Longer: the same caption for one more chunk", "aria-label": "Same caption for one more chunk" }),
      button("", () => { this.insert(at() + 1); this.after(at() + 1); },
        { kind: "plain", sign: "plus", title: "A new caption after this one", "aria-label": "New caption after this one" }),
      button("", () => this.remove(at()),
        { kind: "plain", sign: "cross", title: "Take this caption out", "aria-label": "Take this caption out" }));
    row.node = h("li", {}, h("div", { className: "when" }, row.label, row.time),
      h("div", { className: "field" }, row.marks, row.area), row.tools, row.words);
    this.rows.splice(index, 0, row);
    this.node.insertBefore(row.node, this.node.children[index] || null);
  }

  after(index) {
    this.number();
    this.options.onchange();
    this.look();
    this.rows[index]?.area.focus();
  }

  remove(index) {
    if (this.rows.length <= Math.max(1, this.options.locked)) return;
    this.rows[index].node.remove();
    this.rows.splice(index, 1);
    this.after(Math.min(index, this.rows.length - 1));
  }

  changed(row) {
    this.paint(row);
    this.options.onchange();
    this.look();
  }

  lock(count) {
    this.options.locked = count;
    this.number();
  }

  number() {
    const { about, first = 1 / about.fps, from, locked, fixed } = this.options;
    this.rows.forEach((row, index) => {
      const number = from + index, length = about.seconds_per_chunk;
      const start = first + (number - 1) * length;
      row.label.textContent = `Chunk ${number}`;
      row.time.textContent = `${clock(number === 1 ? 0 : start)}–${clock(start + length)}`;
      row.area.readOnly = index < locked;
      row.node.classList.toggle("locked", index < locked);
      row.tools.hidden = index < locked || fixed;
    });
  }

  paint(row) {
    const unknown = new Set(row.unknown), text = row.area.value;
    row.marks.replaceChildren();
    let at = 0;
    for (const match of text.matchAll(WORD)) {
      if (!unknown.has(match[0].toLowerCase().replace(/['’]s$/, ""))) continue;
      row.marks.append(text.slice(at, match.index), h("mark", {}, match[0]));
      at = match.index + match[0].length;
    }
    row.marks.append(`${text.slice(at)} `);
  }

  async check() {
    const texts = this.rows.map((row) => row.area.value);
    let found;
    try {
      found = await api.words(texts);
    } catch { return; }
    this.rows.forEach((row, index) => {
      if (row.area.value !== texts[index]) return;
      row.unknown = found.unknown[index] || [];
      const said = [];
      if (row.unknown.length) said.push(`The model has never seen: ${row.unknown.join(", ")}.`);
      if (found.tokens[index] > found.most_tokens) said.push(`Too long: ${found.tokens[index]} of ${found.most_tokens} tokens.`);
      row.words.textContent = said.join(" ");
      this.paint(row);
    });
  }
}
