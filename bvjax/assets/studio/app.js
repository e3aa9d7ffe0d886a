// Pages by the address after #, one socket for all of them.
import { Line, api } from "./api.js";
import { toast } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Make } from "./make.js";
import { RunView } from "./run.js";

const main = document.getElementById("main"), link = document.getElementById("link");
let view = null, about = null;

const line = new Line((message, bytes) => {
  if (message.type === "error") toast(message.text);
  view?.hear(message, bytes);
}, (text, good) => {
  link.textContent = text;
  link.className = `link ${good ? "good" : "away"}`;
});

function show() {
  const [page = "", name, , other] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  view?.close();
  if (page === "new") view = new Make(about);
  else if (page === "run" && name) view = new RunView(name, other, about, line);
  else view = new Gallery();
  document.title = page === "new" ? "New story · bvjax studio" : "bvjax studio";
  main.replaceChildren(view.node);
  for (const anchor of document.querySelectorAll("nav a")) {
    if ((anchor.dataset.page === "new") === (page === "new") && page !== "run") anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function begin() {
  try {
    about = await api.about();
  } catch (error) {
    main.textContent = error.message;
    return;
  }
  addEventListener("hashchange", () => { if (location.hash.startsWith("#/") || !location.hash) show(); });
  show();
}
begin();
