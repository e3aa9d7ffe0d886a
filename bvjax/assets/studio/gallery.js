// All runs, with the branches below what they come from.
import { api } from "./api.js";
import { button, h, lasts } from "./dom.js";

export function stateText(run) {
  const now = run.now || { state: "idle" };
  if (now.state === "waiting" && now.place) return now.place === 1 ? "next in the queue" : `place ${now.place} in the queue`;
  if (now.state === "working") return `making chunk ${Math.min(run.done + 1, run.chunks)} of ${run.chunks}`;
  if (now.state === "pausing") return "pausing";
  if (now.state === "failed") return "failed";
  if (run.finished) return "finished";
  if (now.state === "paused") return "paused";
  return run.done ? `stopped after chunk ${run.done} of ${run.chunks}` : "not begun";
}

// [[run, depth]] in the order in which a tree of them is drawn.
export function tree(runs) {
  const names = new Set(runs.map((run) => run.name));
  const children = (parent) => runs.filter((run) => run.parent === parent);
  const found = [], seen = new Set();
  const visit = (run, depth) => {
    if (seen.has(run.name)) return;
    seen.add(run.name);
    found.push([run, depth]);
    for (const child of children(run.name).reverse()) visit(child, depth + 1);
  };
  for (const run of runs) if (!run.parent || !names.has(run.parent)) visit(run, 0);
  for (const run of runs) visit(run, 0); // branches that come from each other
  return found;
}

export const path = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export class Gallery {
  constructor() {
    this.list = h("ul", { className: "cards" });
    this.node = h("section", {}, h("div", { className: "head" }, h("h1", {}, "Runs"),
      h("a", { className: "button primary", href: "#/new" }, "New story")), this.list);
    this.refresh();
  }

  async refresh() {
    const runs = await api.runs();
    if (!runs.length) {
      this.list.replaceChildren(h("li", { className: "empty" }, h("h2", {}, "Nothing has been made yet"),
        h("p", {}, "Write a story, one caption for every few seconds, and watch it being made. You can pause it, change what is to come, take back what went wrong, and branch off from any chunk."),
        h("a", { className: "button primary", href: "#/new" }, "Write the first story")));
      return;
    }
    this.list.replaceChildren(...tree(runs).map(([run, depth]) => this.card(run, depth)));
  }

  card(run, depth) {
    const branch = run.parent ? h("p", { className: "quiet" }, `branch from chunk ${run.from_chunk} of ${run.parent}`) : null;
    return h("li", { className: `card ${depth ? "child" : ""}` }, h("a", { href: path("run", run.name) },
      run.still === null ? h("div", { className: "blank", "aria-hidden": "true" })
        : h("img", { src: api.still(run.name, run.still, run.key), alt: "", loading: "lazy" }),
      h("h2", {}, run.title)),
    h("div", {}, h("p", { className: `tag ${run.finished ? "done" : ""}` }, stateText(run)),
      h("p", { className: "quiet" }, `${lasts(run.seconds)} · ${run.chunks} chunks · seed ${run.seed}`), branch));
  }

  hear(message) {
    if (message.type === "runs" || message.type === "state") this.refresh().catch(() => {});
  }

  close() {}
}

export function versions(runs, name) {
  const all = new Map(runs.map((run) => [run.name, run]));
  let root = name;
  for (const seen = new Set(); all.get(root)?.parent && all.has(all.get(root).parent) && !seen.has(root);) {
    seen.add(root);
    root = all.get(root).parent;
  }
  const found = tree(runs), start = found.findIndex(([run]) => run.name === root);
  if (start < 0) return [];
  const stop = found.findIndex(([, depth], index) => index > start && depth <= found[start][1]);
  return found.slice(start, stop < 0 ? undefined : stop);
}

export function versionList(runs, name, compare) {
  const family = versions(runs, name);
  return h("ol", { className: "versions" }, family.map(([run, depth]) => h("li", { className: `depth${Math.min(depth, 5)}` },
    h("a", { href: path("run", run.name), "aria-current": run.name === name ? "page" : null },
      run.still === null ? h("div", { className: "blank" }) : h("img", { src: api.still(run.name, run.still, run.key), alt: "", loading: "lazy" }),
      h("span", {}, h("b", {}, run.title), " ", h("span", { className: "quiet" }, run.parent ? `from chunk ${run.from_chunk} · ` : "", stateText(run)))),
    run.name === name ? null : button("Compare", () => compare(run.name), { kind: "small", "aria-label": `Compare with ${run.title}` }))));
}
