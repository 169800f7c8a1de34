// The evaluation tab: two folders in, the report out.

import { dropZone, failure, h, icon, say } from "./dom.js";
import { begin, save, upload, visit, work } from "./net.js";

const PICTURE = /\.(jpe?g|jfif|png|webp|tiff?|avif|bmp|gif|hei[cf])$/i;
const SIDES = [["originals", "Originals", "The pictures as they were"], ["outputs", "Anonymized", "What was made of them, with the same names"]];

export function startEvaluation(root, onLost) {
  const files = { originals: [], outputs: [] };
  const zones = {};
  const button = h("button", { class: "primary", disabled: true, onclick: run }, "Judge them");
  const busy = h("p", { class: "working", hidden: true }, h("span", { class: "spin", "aria-hidden": "true" }), h("span", { role: "status" }));
  const problem = h("div", {});
  const result = h("div", { class: "report", hidden: true });
  const sides = SIDES.map(([kind, title, text]) => {
    const count = h("p", { class: "muted", "aria-live": "polite" }, "No folder chosen");
    zones[kind] = count;
    return h("div", { class: "side" }, dropZone({ id: `folder-${kind}`, title, text, label: "Choose a folder", folder: true, symbol: "photo",
      onfiles: (chosen) => pick(kind, chosen) }), count);
  });
  root.replaceChildren(h("div", { class: "evaluation" },
    h("div", { class: "intro" }, h("h1", {}, "How well are people hidden?"),
      h("p", { class: "lead" }, "Two folders in, a report out: who is still recognised, what of pose and expression is left, and how the pictures look.")),
    h("div", { class: "sides" }, sides),
    h("div", { class: "actions centred" }, button), busy, problem, result));

  function pick(kind, chosen) {
    files[kind] = chosen.filter((file) => PICTURE.test(file.name));
    const left = chosen.length - files[kind].length;
    zones[kind].textContent = `${files[kind].length} pictures${left ? `, ${left} other files left out` : ""}`;
    button.disabled = !(files.originals.length && files.outputs.length);
  }

  function tell(text) {
    busy.hidden = !text;
    busy.lastChild.textContent = text;
    button.disabled = Boolean(text);
  }

  async function run() {
    problem.replaceChildren();
    result.hidden = true;
    try {
      const id = await begin("evaluations");
      const all = [...files.originals.map((file) => ["originals", file]), ...files.outputs.map((file) => ["outputs", file])];
      for (const [number, [kind, file]] of all.entries()) {
        tell(`Reading ${number + 1} of ${all.length}`);
        await upload(kind, file, undefined, id);
      }
      const said = await work("evaluate", { id }, (place) => tell(place ? `Waiting: ${place - 1} before you` : "Judging; a few seconds a picture"));
      show(id, said);
    } catch (error) {
      if (!onLost(error, run)) problem.replaceChildren(failure(error.message, run));
    }
    tell("");
  }

  function show(id, said) {
    const at = `/api/report/${visit.key}/${id}`;
    const frame = h("iframe", { src: `${at}/report.html`, title: "Report of the evaluation", loading: "lazy" });
    result.replaceChildren(
      h("h2", {}, `${said.people} people, ${said.pictures} pictures`),
      h("ul", { class: "headline" }, said.headline.map((sentence) => h("li", {}, sentence))),
      h("div", { class: "actions" },
        h("button", { onclick: () => save(`${at}/report.html`, "report.html") }, icon("down"), "Save the report"),
        h("button", { onclick: () => save(`${at}/eval.json`, "eval.json") }, icon("down"), "Save the numbers")),
      frame);
    result.hidden = false;
    say("The report is there");
  }

  return { forget() { result.hidden = true; problem.replaceChildren(); tell(""); } };
}
