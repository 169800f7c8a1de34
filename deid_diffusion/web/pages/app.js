// Starts the page: the visit, the tabs, light and dark, and what is shown when the connection is lost.

import { h, say } from "./dom.js";
import { leave, Lost, open } from "./net.js";
import { startClips } from "./clips.js";
import { startEvaluation } from "./evaluation.js";
import { startPhotos } from "./photos.js";

const banner = document.getElementById("lost");

// Tells of a lost connection, and does what was wanted again once it is back.
function onLost(error, again) {
  if (!(error instanceof Lost)) return false;
  const button = h("button", { class: "quiet", onclick: async () => {
    button.disabled = true;
    try {
      const fresh = await open();
      banner.hidden = true;
      if (fresh) parts.forEach((part) => part.forget());
      else again();
    } catch { button.disabled = false; }
  } }, "Try again");
  banner.replaceChildren(h("span", {}, error.message), button);
  banner.hidden = false;
  return true;
}

const tabs = [...document.querySelectorAll("[role=tab]")];
function show(tab) {
  for (const one of tabs) {
    const on = one === tab;
    one.setAttribute("aria-selected", String(on));
    one.tabIndex = on ? 0 : -1;
    document.getElementById(one.getAttribute("aria-controls")).hidden = !on;
  }
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
});

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("deid-theme", root.dataset.theme); } catch { /* a frame that may keep nothing */ }
  say(`The page is ${root.dataset.theme} now`);
});

addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => event.persisted && location.reload());
// A file that misses its place must not replace the page.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());

const parts = [];
try {
  await open();
} catch (error) {
  if (!onLost(error, () => location.reload())) {
    banner.textContent = error.message;
    banner.hidden = false;
  }
}
parts.push(
  startPhotos(document.getElementById("photos"), onLost),
  startClips(document.getElementById("clips"), onLost),
  startEvaluation(document.getElementById("evaluation"), onLost),
);
