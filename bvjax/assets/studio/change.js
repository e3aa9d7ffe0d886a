// The dialog in which chunks are made again, or a branch begins: other captions from a chunk on, another seed or not.
import { api } from "./api.js";
import { button, h, toast } from "./dom.js";
import { Captions } from "./editor.js";
import { path } from "./gallery.js";
import { loraSliders, strengthsAt } from "./loras.js";

const TEXTS = {
  branch: ["Branch from chunk", "This version stays as it is. The new one shares every chunk before this one, on disk too, and goes its own way from here.", "Branch"],
  redo: ["Make again from chunk", "The chunks before this one stay as they are. Those from here on go to the run's archive and are made again.", "Make again"],
};

export function change(view, action) {
  const { info, about, selected } = view, [heading, text, verb] = TEXTS[action];
  const editor = new Captions(info.captions.slice(selected - 1), { about, first: info.first_seconds, from: selected, fixed: action === "redo" });
  const seed = h("input", { type: "checkbox", id: "new-seed", checked: true });
  const title = h("input", { id: "branch-title", maxLength: 120, value: `${info.title}, another way`.slice(0, 120) });
  const loras = loraSliders(about, strengthsAt(info, selected));
  const go = async () => {
    const captions = editor.values, empty = captions.findIndex((caption) => !caption);
    if (empty >= 0) return toast(`Caption ${selected + empty} is empty.`);
    sure.disabled = true;
    try {
      const content = { from_chunk: selected, captions };
      if (seed.checked) content.seed = crypto.getRandomValues(new Uint32Array(1))[0];
      if (Object.keys(loras.values()).length) content.loras = loras.values();
      if (action === "branch") content.title = title.value;
      const { name } = await api.act(view.name, action, content);
      box.close();
      if (name !== view.name) location.hash = path("run", name);
      else view.load();
    } catch (error) { toast(error.message); }
    sure.disabled = false;
  };
  const sure = button(verb, go, { kind: "primary", sign: action === "branch" ? "branch" : "again" });
  const box = h("dialog", { className: "change", "aria-labelledby": "change-title", onclose: () => box.remove() },
    h("h2", { id: "change-title" }, `${heading} ${selected}`), h("p", { className: "quiet" }, text),
    action === "branch" ? h("div", { className: "labelled" }, h("label", { htmlFor: "branch-title" }, "Title of the branch"), title) : null,
    editor.node,
    h("p", { className: "check" }, seed, h("label", { htmlFor: "new-seed" }, "Another seed: other pictures even where captions stay")),
    about.loras.length ? h("details", {}, h("summary", {}, "LoRAs"), loras.node) : null,
    h("div", { className: "row" }, sure, button("Leave it", () => box.close())));
  document.body.append(box);
  box.showModal();
}
