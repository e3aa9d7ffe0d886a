"use strict";
// Sorts the table of videos, fills cards when they come into view and draws their curves.  What a
// card shows without this script stands in its <noscript>, and is taken from there.
(() => {
  const METRICS = JSON.parse(document.getElementById("metrics").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 230, TOP = 18, BOTTOM = 14;
  const MARKERS = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "M-3.5 -3.5h7v7h-7z", "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L4.6 0L0 5L-4.6 0z", "M0 4.6L4.4 -3.4H-4.4z", "M-1.4 -4.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1z",
    "M-4.5 -2.2L0 -5L4.5 -2.2V2.2L0 5L-4.5 2.2z", "M-4.5 -1.6h9v3.2h-9z",
  ];
  const table = document.querySelector("#videos table");
  const cards = [...document.querySelectorAll(".card")];
  const drawn = new Map(); // card -> function that draws its curves anew
  const hidden = new Set(); // metrics whose curves a reader has switched off
  let compressed = false;

  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function draw(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }
  function percent(x, round = false) {
    const size = Math.abs(100 * x);
    if (size < 5e-5) return "0\u00a0%";
    const digits = size >= 10 ? 0 : Math.min(4, Math.max(0, 1 - Math.floor(Math.log10(size))));
    const shown = size.toLocaleString("en", {
      minimumFractionDigits: round ? 0 : digits, maximumFractionDigits: digits,
    });
    return (x < 0 ? "\u2212" : "+") + shown + "\u00a0%";
  }
  const hue = (metric) => `var(--c${metric.hue})`;

  // ---- sorting -----------------------------------------------------------------------------
  const headers = table ? [...table.querySelectorAll("thead th[data-key]")] : [];
  const order = [...(table ? table.tBodies[0].rows : [])]; // as written: the worst first

  function value(row, column) {
    const cell = row.cells[column];
    if (column === 0) return cell.textContent;
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;
  }
  function sort(header, direction) {
    const column = header.cellIndex, sign = direction === "ascending" ? 1 : -1;
    const keyed = order.map((row, place) => ({ row, place, key: value(row, column) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) {
        return (a.key === null) - (b.key === null) || a.place - b.place; // missing ones last
      }
      const by = column === 0 ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key;
      return sign * by || a.place - b.place;
    });
    table.tBodies[0].append(...keyed.map(({ row }) => row));
    const list = document.getElementById("cards");
    list.append(...keyed.map(({ row }) => document.getElementById(row.dataset.card)));
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
  }
  for (const header of headers) {
    const button = make("button", { type: "button", title: header.title });
    button.append(...header.childNodes);
    header.append(button);
    header.removeAttribute("title");
    button.addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending" };
      const now = header.getAttribute("aria-sort");
      const direction = now ? opposite[now] : header.dataset.first;
      sort(header, direction);
      history.replaceState(null, "", `#sort=${header.dataset.key}:${direction}`);
    });
  }

  // ---- cards -------------------------------------------------------------------------------
  function fill(card) {
    if (drawn.has(card)) return;
    const body = card.querySelector(".body");
    const written = document.createElement("template");
    written.innerHTML = body.querySelector("noscript").textContent; // escaped when it was written
    body.replaceChildren(written.content);
    body.classList.remove("waiting");
    for (const place of body.querySelectorAll("[data-swatch]")) {
      place.append(swatch(METRICS[place.dataset.swatch]));
    }
    drawn.set(card, curves(card, body.querySelector(".plot")));
    drawn.get(card)();
  }
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && target.open) {
        watcher.unobserve(target);
        fill(target);
      }
    }
  }, { rootMargin: "800px" });
  for (const card of cards) {
    card.querySelector(".body").classList.add("waiting");
    card.addEventListener("toggle", () => {
      if (card.open && !drawn.has(card)) watcher.observe(card);
    });
    if (card.open) fill(card); // few: those that the page opens itself
  }
  window.addEventListener("beforeprint", () => cards.filter((c) => c.open).forEach(fill));

  // ---- curves ------------------------------------------------------------------------------
  function swatch(metric) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "-13 -6 26 12");
    svg.setAttribute("aria-hidden", "true");
    const line = { x1: -12, x2: 12, y1: 0, y2: 0, "stroke-width": 2, style: `stroke:${hue(metric)}` };
    if (metric.dashed) line["stroke-dasharray"] = "5 3";
    draw(svg, "line", line);
    draw(svg, "path", { d: MARKERS[metric.hue], style: `fill:${hue(metric)}` });
    return svg;
  }
  // Places of changes between 0 (top) and 1 (bottom), and the lines of the grid.
  function axis(changes) {
    let low = Math.min(0, ...changes), high = Math.max(0, ...changes);
    if (high - low < 1e-7) { low = -0.01; high = 0.01; }
    const ticks = [0];
    let bend = (x) => x;
    if (compressed) {
      const largest = Math.max(high, -low);
      const unit = 10 ** Math.max(-5, Math.min(-2, Math.floor(Math.log10(largest)) - 3));
      bend = (x) => Math.sign(x) * Math.log10(1 + Math.abs(x) / unit);
      for (let x = unit * 10; x <= largest * 1.01; x *= 10) {
        if (x <= high) ticks.push(x);
        if (-x >= low) ticks.push(-x);
      }
    } else {
      const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = power * [1, 2, 5, 10].find((n) => n * power >= rough);
      for (let x = step; x <= high; x += step) ticks.push(x);
      for (let x = -step; x >= low; x -= step) ticks.push(x);
    }
    const [top, bottom] = [bend(high), bend(low)];
    const y = (x) => TOP + (HEIGHT - TOP - BOTTOM) * (top - bend(x)) / (top - bottom);
    return { ticks, y };
  }
  function curves(card, plot) {
    const { chunks, labels, moved, why } = JSON.parse(plot.dataset.curves);
    const n = labels.length, x = (i) => `${(100 * (i + 0.5)) / n}%`;
    const stills = [...card.querySelectorAll(".strip li")];
    const rows = METRICS.map((metric, m) => {
      const scores = chunks[m], first = scores ? scores[0] : null;
      const relative = first
        ? scores.map((s) => (s === null ? null : (s - first) / Math.abs(first))) : null;
      return { metric, m, scores, relative };
    });
    const canvas = make("div", { class: "canvas" });
    const tip = make("div", { class: "tip", "aria-live": "polite", hidden: "" });
    const legend = make("div", { class: "legend", role: "group", "aria-label": "Curves" });
    plot.append(canvas);
    const body = card.querySelector(".body"); // not in the lane, which would cut it off
    body.append(tip);
    plot.closest(".lane").after(legend);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label",
      "Change of each metric relative to chunk 1; the arrow keys go from chunk to chunk");
    let here = null, guide = null;

    function redraw() {
      const shown = rows.filter((row) => row.relative && !hidden.has(row.metric.name));
      const all = shown.flatMap((row) => row.relative.filter((v) => v !== null));
      const { ticks, y } = axis(all);
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("width", "100%");
      svg.setAttribute("height", HEIGHT);
      svg.setAttribute("aria-hidden", "true");
      for (const tick of ticks) {
        const line = { x1: 0, x2: "100%", y1: y(tick), y2: y(tick) };
        draw(svg, "line", { ...line, class: tick ? "grid" : "zero" });
        draw(svg, "text", { x: -8, y: y(tick) + 4, "text-anchor": "end" }, percent(tick, true));
      }
      guide = draw(svg, "line", { y1: TOP - 8, y2: HEIGHT, class: "guide", visibility: "hidden" });
      const placed = new Map(), values = [];
      for (const { metric, m, relative } of shown) {
        const group = draw(svg, "g", { style: `stroke:${hue(metric)};fill:${hue(metric)}`, "data-metric": metric.name });
        relative.forEach((v, i) => {
          const before = i ? relative[i - 1] : null;
          if (v === null || before === null) return;
          const line = { class: "curve", x1: x(i - 1), x2: x(i), y1: y(before), y2: y(v) };
          if (metric.dashed) line["stroke-dasharray"] = "6 4";
          draw(group, "line", line);
        });
        relative.forEach((v, i) => {
          if (v === null) return;
          const place = draw(group, "svg", { x: x(i), y: y(v), overflow: "visible" });
          draw(place, "path", { d: MARKERS[metric.hue], stroke: "none" });
          if (moved[m] && moved[m][0] === i) draw(place, "circle", { r: 9, fill: "none", "stroke-width": 2 });
        });
        if (!moved[m] || moved[m][1] === null) continue;
        // How far it moved there, where no other metric's number stands yet.
        const [i, change] = moved[m];
        if (relative[i] === null) continue;
        const at = y(relative[i]), taken = placed.get(i) || [];
        const free = [24, -14, 37, -27, 50, -40, 63].map((shift) => at + shift).find((place) =>
          place > TOP && place < HEIGHT - 2 && taken.every((other) => Math.abs(other - place) >= 13));
        placed.set(i, [...taken, free ?? at]);
        const label = { x: x(i), y: free ?? at, "text-anchor": "middle", class: "value" };
        values.push([{ ...label, style: `--hue:${hue(metric)}` }, percent(change)]);
      }
      for (const [attributes, text] of values) draw(svg, "text", attributes, text);
      canvas.replaceChildren(svg);
      legend.replaceChildren(...rows.map(button));
      point(here);
    }
    function button({ metric, m, relative }) {
      const node = make("button", { type: "button", "aria-pressed": !hidden.has(metric.name) }, swatch(metric), metric.title);
      if (!relative) {
        node.disabled = true;
        node.title = why[m];
        node.removeAttribute("aria-pressed");
      }
      node.addEventListener("click", () => {
        if (!hidden.delete(metric.name)) hidden.add(metric.name);
        drawn.forEach((again) => again());
        legend.children[m].focus();
      });
      return node;
    }
    function point(i) {
      stills.forEach((still, place) => still.classList.toggle("here", place === i));
      here = i;
      tip.hidden = i === null;
      guide.setAttribute("visibility", i === null ? "hidden" : "visible");
      if (i === null) return;
      guide.setAttribute("x1", x(i));
      guide.setAttribute("x2", x(i));
      const lines = rows.filter((row) => row.scores && !hidden.has(row.metric.name)).map((row) => {
        const score = row.scores[i], change = row.relative ? row.relative[i] : null;
        return make("tr", {},
          make("td", {}, swatch(row.metric), row.metric.title),
          make("td", {}, change === null ? "\u2013" : make("strong", {}, percent(change))),
          make("td", {}, score === null ? "not measured" : score.toLocaleString("en", { maximumSignificantDigits: 5 })));
      });
      tip.replaceChildren(make("strong", {}, `Chunk ${i + 1}`), ` ${labels[i]}`, make("table", {}, ...lines));
      // Beside the line, on the side with more room, and never over the card's edge.
      const box = canvas.getBoundingClientRect(), frame = body.getBoundingClientRect();
      const line = box.left - frame.left + ((i + 0.5) / n) * box.width;
      const wide = tip.offsetWidth, room = frame.width - wide - 4;
      const place = line > frame.width / 2 ? line - wide - 14 : line + 14;
      tip.style.left = `${Math.max(4, Math.min(room, place))}px`;
      tip.style.top = `${box.top - frame.top + 6}px`;
    }
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      return Math.max(0, Math.min(n - 1, Math.floor(((event.clientX - box.left) / box.width) * n)));
    };
    canvas.addEventListener("pointermove", (event) => point(under(event)));
    canvas.addEventListener("pointerdown", (event) => point(under(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("blur", () => point(null));
    canvas.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: Math.max(0, (here ?? n) - 1), ArrowRight: Math.min(n - 1, (here ?? -1) + 1), Home: 0, End: n - 1, Escape: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      point(to);
    });
    stills.forEach((still, i) => {
      still.addEventListener("pointerenter", () => point(i));
      still.addEventListener("pointerleave", () => point(null));
    });
    return redraw;
  }

  // ---- tools -------------------------------------------------------------------------------
  function tool(place, text, action) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => action(button));
    place.append(button);
    return button;
  }
  const cardTools = document.querySelector("#curves .tools");
  if (cardTools) {
    tool(cardTools, "Open all", () => cards.forEach((card) => { card.open = true; }));
    tool(cardTools, "Close all", () => cards.forEach((card) => { card.open = false; }));
    const scale = tool(cardTools, "Compressed scale", (button) => {
      compressed = !compressed;
      button.setAttribute("aria-pressed", compressed);
      button.textContent = compressed ? "Linear scale" : "Compressed scale";
      drawn.forEach((again) => again());
    });
    scale.setAttribute("aria-pressed", "false");
    scale.title = "A logarithmic scale shows small changes beside large ones";
  }
  const tableTools = document.querySelector("#videos .tools");
  if (tableTools && order.length > 1) {
    document.querySelector("#videos .note").append(" A click on a heading sorts by it.");
  }
  if (tableTools && order.length > 8) {
    const count = make("span", { class: "note", role: "status" });
    const field = make("input", { type: "search", placeholder: "Find videos by name", "aria-label": "Find videos by name" });
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const row of order) {
        const name = row.cells[0].textContent.toLowerCase();
        const show = words.every((word) => name.includes(word));
        row.hidden = !show;
        document.getElementById(row.dataset.card).hidden = !show;
        left += show;
      }
      count.textContent = words.length ? `${left} of ${order.length}` : "";
    });
    tableTools.append(field, count);
  }

  // ---- the address: #video-3 opens a card, #sort=official/clarity:ascending sorts ------------
  function follow() {
    let wanted = location.hash.slice(1);
    try { wanted = decodeURIComponent(wanted); } catch { return; }
    const sorting = /^sort=(.*?)(?::(ascending|descending))?$/.exec(wanted);
    if (sorting) {
      const header = headers.find((h) => h.dataset.key === sorting[1]);
      if (header) sort(header, sorting[2] || header.dataset.first);
      return;
    }
    const card = cards.find((c) => c.id === wanted);
    if (!card) return;
    card.open = true;
    fill(card);
    card.scrollIntoView();
    card.querySelector("summary").focus({ preventScroll: true });
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
