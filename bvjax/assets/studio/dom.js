// Elements out of names, properties and children; text is text, never markup.
export function h(tag, props = {}, ...children) {
  const svg = ["svg", "path", "rect", "circle", "line", "polyline", "text", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && !svg && !key.startsWith("aria") && key !== "list") node[key] = value;
    else node.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Replaces what is in a node; what is null is left out.
export function put(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function lasts(seconds) {
  return seconds < 60 ? `${Math.round(seconds)} s` : `${clock(Math.round(seconds))} min`;
}

export function toast(text, kind = "error") {
  const box = h("p", { className: `toast ${kind}` }, text,
    h("button", { type: "button", className: "plain", "aria-label": "Close this message", onclick: () => box.remove() }, "×"));
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), kind === "error" ? 12000 : 5000);
}

// Runs the latest call only, after a pause.
export function later(milliseconds, call) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), milliseconds);
  };
}

export function kept(name, value) {
  try {
    if (value === undefined) return JSON.parse(localStorage.getItem(name));
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, JSON.stringify(value));
  } catch { /* private windows keep nothing */ }
  return null;
}

const ICONS = {
  play: "M7 5l12 7-12 7z", pause: "M7 5h4v14H7zM13 5h4v14h-4z", stop: "M6 6h12v12H6z",
  branch: "M7 4v10a4 4 0 0 0 4 4h4M7 8h6a3 3 0 0 0 3-3M15 15l3 3-3 3",
  again: "M19 12a7 7 0 1 1-2.5-5.4M19 3v5h-5", back: "M10 7l-5 5 5 5M5 12h9a5 5 0 0 1 5 5",
  down: "M12 4v11M7 11l5 5 5-5M5 20h14", plus: "M12 5v14M5 12h14", cross: "M6 6l12 12M18 6L6 18",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01", copy: "M9 9h10v10H9zM5 15V5h10",
};
export function icon(name) {
  const full = ["play", "pause", "stop"].includes(name);
  return h("svg", { viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true", className: "icon",
    fill: full ? "currentColor" : "none", stroke: full ? "none" : "currentColor", "stroke-width": 2,
    "stroke-linecap": "round", "stroke-linejoin": "round" }, h("path", { d: ICONS[name] }));
}
export function button(text, onclick, { kind = "", sign = null, ...props } = {}) {
  return h("button", { type: "button", className: kind, onclick, ...props }, sign && icon(sign), text && h("span", {}, text));
}
