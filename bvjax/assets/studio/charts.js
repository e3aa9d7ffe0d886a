// Drift curves and the map of what each chunk looked back at, as SVG.
import { h } from "./dom.js";

export const ROLES = { anchor: "first frame", semantic: "by meaning", recent: "just before" };
const CURVES = [
  ["clarity", "Clarity", "variance of the Laplacian"],
  ["motion", "Motion", "optical flow, pixels per frame"],
  ["saturation", "Saturation", "0 to 1"],
  ["seam", "Seam", "step across the join, 1 is none"],
];
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

// versions: [{label, chunks: {number: facts}}], at most two.
export function curves(versions, total, selected, select) {
  const width = 260, height = 74, left = 4, right = 4, top = 8, bottom = 8;
  return CURVES.map(([key, title, unit]) => {
    const lines = versions.map(({ chunks }) => Object.entries(chunks)
      .map(([chunk, facts]) => [Number(chunk), number(facts.drift?.[key])]).filter(([, value]) => value !== null));
    const most = Math.max(1e-6, ...lines.flat().map(([, value]) => value)) * 1.1;
    const x = (chunk) => left + ((chunk - 0.5) / Math.max(1, total)) * (width - left - right);
    const y = (value) => top + (1 - value / most) * (height - top - bottom);
    const last = lines[0].at(-1), now = lines[0].find(([chunk]) => chunk === selected) || last;
    const text = now ? `${title}, chunk ${now[0]}: ${now[1].toPrecision(3)}` : `${title}: nothing measured yet`;
    return h("figure", { className: "curve" },
      h("figcaption", {}, h("b", {}, title), " ", h("span", { className: "quiet" }, unit),
        h("output", {}, now ? now[1].toPrecision(3) : "–")),
      h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": text },
        selected ? h("rect", { className: "here", x: x(selected - 0.5), y: 0, width: (width - left - right) / Math.max(1, total), height }) : null,
        lines[0].length ? h("line", { className: "from", x1: left, x2: width - right, y1: y(lines[0][0][1]), y2: y(lines[0][0][1]) }) : null,
        lines.map((line, index) => [
          h("polyline", { className: `line v${index}`, points: line.map(([chunk, value]) => `${x(chunk)},${y(value)}`).join(" ") }),
          line.map(([chunk, value]) => h("circle", { className: `dot v${index}`, cx: x(chunk), cy: y(value), r: chunk === selected ? 4 : 2.6,
            onclick: () => select(chunk) }, h("title", {}, `chunk ${chunk}: ${value.toPrecision(3)}`))),
        ])));
  });
}

export function lookedAt(chunks, total, selected, select) {
  const edge = 22, cell = Math.max(7, Math.min(24, 300 / (total + 1)));
  const width = edge + cell * total + 2, height = edge + cell * total + 2;
  const marks = [], every = cell < 14 ? 5 : 1;
  for (let column = 1; column <= total; column += 1) {
    const x = edge + (column - 1) * cell;
    if (column % every === 0 || column === 1) {
      marks.push(h("text", { className: "tick", x: x + cell / 2, y: 14, "text-anchor": "middle" }, `${column}`));
    }
    const seen = new Map((chunks[column]?.retrieved || []).map((entry) => [entry.chunk, entry]));
    for (let row = 0; row < column; row += 1) {
      const entry = seen.get(row), y = edge + row * cell;
      if (column === total && (row % every === 0)) {
        marks.push(h("text", { className: "tick", x: edge - 5, y: y + cell / 2 + 4, "text-anchor": "end" }, `${row}`));
      }
      marks.push(h("rect", { className: `cell ${entry ? entry.role : ""} ${column === selected ? "here" : ""}`, x: x + 1, y: y + 1,
        width: cell - 2, height: cell - 2, rx: 3, onclick: () => select(column) },
      h("title", {}, entry ? `chunk ${column} looked at ${row ? `chunk ${row}` : "the first frame"}, ${ROLES[entry.role] || entry.role}` : `chunk ${column}`)));
    }
  }
  return h("svg", { className: "looked", viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "Which past chunks each chunk looked at: a column for each chunk, a row for each it could look at, 0 being the first frame. The list beside the player says it of the chosen chunk." }, marks);
}
