// Strengths of LoRAs: a slider each, for a new story, for chunks to come, and for chunks that are made again.
import { api } from "./api.js";
import { button, h, toast } from "./dom.js";

const STRONGEST = 1.5;
let fields = 0;

// { node, values() }: sliders for the LoRAs of `about`, at `strengths` by name, others off.
export function loraSliders(about, strengths = {}) {
  const inputs = new Map();
  const rows = about.loras.map(({ name }) => {
    const id = `lora-${fields += 1}`, value = h("output", { htmlFor: id });
    const now = strengths[name] || 0;
    const input = h("input", { id, type: "range", min: Math.min(0, now), max: Math.max(STRONGEST, now), step: 0.05, value: now });
    const show = () => { value.textContent = Number(input.value) ? input.value : "off"; };
    input.addEventListener("input", show);
    inputs.set(name, { input, now });
    show();
    return h("div", { className: "setting" }, h("label", { htmlFor: id }, name), value, input);
  });
  const all = () => [...inputs].map(([name, { input, now }]) => [name, Number(input.value), now]);
  return {
    node: h("div", {}, rows),
    values: () => Object.fromEntries(all().filter(([, value, now]) => value !== now).map(([name, value]) => [name, value])),
  };
}

// {name: strength} at a chunk of a run.
export function strengthsAt(info, chunk) {
  return Object.fromEntries((info.loras || []).map(({ name, strengths }) =>
    [name, strengths.filter(([first]) => first <= chunk).at(-1)?.[1] || 0]));
}

// The first chunk that is neither made nor in the making.
export function nextFree(info) {
  return info.done + (["working", "pausing"].includes(info.now.state) ? 2 : 1);
}

// The panel of a run: what its chunks are made with, and other strengths for those to come.
export function loraPanel(view) {
  const { info, about } = view, next = nextFree(info);
  const told = (info.loras || []).map(({ name, strengths }) => h("li", {}, h("b", {}, name), " ",
    strengths.map(([first, value]) => `${value || "off"} from chunk ${first} on`).join(", ")));
  const list = told.length ? h("ul", { className: "quiet" }, told) : h("p", { className: "quiet" }, "None is on.");
  if (!info.ours || next > info.chunks) return [list];
  const sliders = loraSliders(about, strengthsAt(info, next));
  const use = button(`Use from chunk ${next} on`, async () => {
    const loras = sliders.values();
    if (!Object.keys(loras).length) return toast("No strength is another.");
    try {
      await api.act(view.name, "loras", { from_chunk: next, loras });
      toast(`Used from chunk ${next} on.`, "good");
      view.load();
    } catch (error) { toast(error.message); }
  });
  return [list, sliders.node, h("div", { className: "row" }, use)];
}
