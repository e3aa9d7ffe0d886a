// A new story: captions, settings with plain explanations, a first image or a video to go on from.
import { api } from "./api.js";
import { button, h, kept, toast } from "./dom.js";
import { Captions } from "./editor.js";
import { path } from "./gallery.js";
import { loraSliders } from "./loras.js";

const EXAMPLE = { title: "The fox who came back", captions: [
  "On a bright morning, a small orange fox called Pip with a scarf waves hello in Willow Hollow, a grassy meadow.",
  "Pip dances with joy in Willow Hollow.",
  "At Willow Hollow, a blue owl named Ada with a hat walks in from the right and then Pip wanders off to the left.",
  "Ada looks left and right in Willow Hollow.",
  "Ada heads right to Ember Reach, a palm beach, and spins in place.",
  "At Ember Reach, Ada hops up and down.",
  "Ada sits down at Ember Reach, then walks off to the right.",
  "From the left, Pip comes back to Willow Hollow and jumps for joy.",
] };

export class Make {
  constructor(about) {
    this.about = about;
    const draft = kept("draft") || { title: "", captions: [""], seed: 0 };
    this.files = { image: null, video: null };
    this.title = h("input", { id: "title", value: draft.title, maxLength: 120, placeholder: "A name for the story", oninput: () => this.save() });
    this.seed = h("input", { id: "seed", type: "number", min: 0, max: 4294967295, step: 1, value: draft.seed ?? 0, oninput: () => this.save() });
    this.box = h("div");
    this.fill(draft.captions?.length ? draft.captions : [""]);
    this.submit = button("Make it", () => this.make(), { kind: "primary big", sign: "play" });
    this.node = h("section", { className: "new" },
      h("div", { className: "head" }, h("h1", {}, "New story"),
        h("div", { className: "row" }, about.knows_words ? button("Example", () => { this.title.value = EXAMPLE.title; this.fill(EXAMPLE.captions); this.save(); }) : null,
          this.opener())),
      h("div", { className: "two" },
        h("div", {}, h("div", { className: "labelled" }, h("label", { htmlFor: "title" }, "Title"), this.title),
          h("h2", {}, "Captions"), h("p", { className: "quiet" },
            `Each caption is a chunk of ${about.seconds_per_chunk} seconds. Names and places come back when a caption names them again.`,
            about.knows_words ? " Words that this model has never seen are underlined: it cannot draw them." : ""), this.box),
        h("aside", {}, this.settings(), this.begin(), h("div", { className: "sticky" }, this.submit,
          h("p", { className: "quiet" }, "You can change what is to come while it is made.")))));
  }

  fill(captions) {
    this.editor = new Captions(captions, { about: this.about, onchange: () => this.save() });
    this.box.replaceChildren(this.editor.node, button("Add a caption", () => {
      this.editor.insert(this.editor.rows.length);
      this.editor.after(this.editor.rows.length - 1);
    }, { sign: "plus" }));
  }

  save() {
    kept("draft", { title: this.title.value, captions: this.editor.values, seed: Number(this.seed.value) });
  }

  opener() {
    const input = h("input", { type: "file", accept: ".json,application/json", className: "unseen", "aria-label": "Open a story file", onchange: async () => {
      try {
        const story = await api.story(JSON.parse(await input.files[0].text()));
        this.title.value = story.title;
        this.fill(story.captions);
        this.save();
      } catch (error) { toast(error instanceof SyntaxError ? "this file is not JSON" : error.message); }
      input.value = "";
    } });
    return h("label", { className: "button" }, "Open a file", input);
  }

  settings() {
    this.inputs = new Map();
    this.presets = h("div", { className: "presets", role: "group", "aria-label": "Presets" }, this.about.presets.map((preset) =>
      button(preset.title, () => this.choose(preset), { title: preset.text, "aria-pressed": "false" })));
    this.told = h("p", { className: "quiet" });
    const rows = this.about.switches.map((item) => {
      const id = `set-${item.key}`, value = h("output", { htmlFor: id });
      const input = item.options.length
        ? h("select", { id }, item.options.map(([name, text]) => h("option", { value: name, selected: name === item.value }, text)))
        : h("input", { id, type: "range", min: item.low, max: item.high, step: item.step, value: item.value });
      const show = () => { value.textContent = item.options.length ? "" : input.value; };
      input.addEventListener("input", () => { show(); this.mark(); });
      input.setAttribute("aria-describedby", `${id}-text`);
      this.inputs.set(item.key, { input, item, show });
      show();
      return h("div", { className: "setting" }, h("label", { htmlFor: id }, item.title), value, input, h("p", { className: "quiet", id: `${id}-text` }, item.text));
    });
    this.loras = loraSliders(this.about);
    const node = h("section", { className: "panel" }, h("h2", {}, "How it is made"), this.presets, this.told,
      this.about.loras.length ? h("details", {}, h("summary", {}, "LoRAs"),
        h("p", { className: "quiet" }, "Small changes of the model, each as strong as you like. They can be switched on and off while it is made."), this.loras.node) : null,
      h("details", {}, h("summary", {}, "Memory, guidance and care"), rows,
        h("p", { className: "quiet" }, "With other numbers than before the first chunk takes longer: programs are compiled for them.")),
      h("div", { className: "labelled" }, h("label", { htmlFor: "seed" }, "Seed"), h("div", { className: "row" }, this.seed,
        button("", () => { this.seed.value = crypto.getRandomValues(new Uint32Array(1))[0]; this.save(); }, { sign: "dice", title: "Another seed, another video", "aria-label": "Draw a seed" }))));
    this.mark();
    return node;
  }

  choose(preset) {
    for (const [key, { input, item, show }] of this.inputs) {
      input.value = preset.values[key] ?? item.value;
      show();
    }
    this.mark();
  }

  mark() {
    const values = this.values();
    let told = "Numbers of your own.";
    this.about.presets.forEach((preset, index) => {
      const wanted = Object.fromEntries(Object.entries(preset.values).filter(([key, value]) => this.inputs.get(key)?.item.value !== value));
      const same = JSON.stringify(Object.entries(wanted).sort()) === JSON.stringify(Object.entries(values).sort());
      this.presets.children[index].setAttribute("aria-pressed", String(same));
      if (same) told = preset.text;
    });
    this.told.textContent = told;
  }

  values() {
    const found = {};
    for (const [key, { input, item }] of this.inputs || []) {
      const value = item.options.length ? input.value : Number(input.value);
      if (value !== item.value) found[key] = value;
    }
    return found;
  }

  begin() {
    const said = h("p", { className: "quiet", role: "status" });
    const field = (kind, text, accept, note) => {
      const input = h("input", { type: "file", id: `file-${kind}`, accept, onchange: async () => {
        const file = input.files[0];
        this.files[kind] = null;
        if (!file) return;
        said.textContent = `reading ${file.name} …`;
        this.submit.disabled = true;
        try {
          this.files[kind] = await api.upload(file, kind);
          said.textContent = `${file.name} will be used.`;
        } catch (error) { said.textContent = ""; input.value = ""; toast(error.message); }
        this.submit.disabled = false;
      } });
      return h("div", { className: "labelled" }, h("label", { htmlFor: input.id }, text), input, h("p", { className: "quiet" }, note));
    };
    return h("details", { className: "panel" }, h("summary", {}, "Begin with a picture or a video"),
      field("image", "First image", "image/png,image/jpeg,image/webp", "It becomes the first frame. PNG, JPEG or WebP, up to 16 MB."),
      field("video", "Video to go on from", "video/mp4,video/webm,video/quicktime,.mkv,.avi", "The end of it becomes the first chunks, which captions 1, 2, … describe. Up to 256 MB."), said);
  }

  async make() {
    const captions = this.editor.values;
    const empty = captions.findIndex((caption) => !caption);
    if (empty >= 0) {
      this.editor.rows[empty].area.focus();
      return toast(`Caption ${empty + 1} is empty.`);
    }
    this.submit.disabled = true;
    try {
      const { name } = await api.create({ title: this.title.value, captions, seed: Number(this.seed.value) || 0,
        settings: this.values(), loras: this.loras.values(), image: this.files.image, video: this.files.video });
      kept("draft", null);
      location.hash = path("run", name);
    } catch (error) { toast(error.message); }
    this.submit.disabled = false;
  }

  hear() {}
  close() {}
}

