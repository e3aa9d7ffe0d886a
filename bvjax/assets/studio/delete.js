// The dialog before a run is deleted for good.
import { api } from "./api.js";
import { button, h, toast } from "./dom.js";

export function remove(view) {
  const { info } = view, branches = info.branches || [];
  const go = async () => {
    sure.disabled = true;
    try {
      await api.act(view.name, "delete", { confirm: view.name, keep_branches: branches.length > 0 });
      box.close();
      if (location.hash.includes(encodeURIComponent(view.name))) location.hash = "#/";
    } catch (error) { toast(error.message); }
    sure.disabled = false;
  };
  const sure = button("Delete it for good", go, { kind: "primary", sign: "cross" });
  const box = h("dialog", { className: "change", "aria-labelledby": "delete-title", onclose: () => box.remove() },
    h("h2", { id: "delete-title" }, `Delete ${info.title}?`),
    h("p", {}, `Its video, its chunks and its archive are taken off the disk. There is no way back.`),
    branches.length ? h("p", {}, `These branch from it, and stay whole, with files of their own: ${branches.join(", ")}.`) : null,
    h("div", { className: "row" }, sure, button("Keep it", () => box.close())));
  document.body.append(box);
  box.showModal();
}
