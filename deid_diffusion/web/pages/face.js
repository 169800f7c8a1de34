// One face of the list: its thumbnails, what becomes of it, other faces to choose from, and sliders.

import { h, icon, pills } from "./dom.js";
import { visit } from "./net.js";

const DECISIONS = [["replace", "New face"], ["keep", "Keep"], ["blank", "Blank"], ["blur", "Blur"], ["pixelate", "Pixelate"]];
// Name, label, step, and what lowest and highest mean.
const FIRST = [
  ["age", "Age", 5, "0 years", "100 years"],
  ["smile", "Smile", 0.05, "none", "broad"],
  ["glasses", "Glasses", 1, "none", "before the eyes"],
  ["facial_hair", "Beard", 1, "clean-shaven", "beard or moustache"],
  ["male", "Presented gender", 0.5, "feminine", "masculine"],
];
const MORE = [
  ["mouth_open", "Mouth", 0.05, "closed", "wide open"],
  ["eyes_open", "Eyes", 0.05, "shut", "wide"],
  ["brow_raise", "Brows", 0.05, "lowered", "raised"],
  ["gaze_x", "Gaze, sideways", 0.1, "to the left", "to the right"],
  ["gaze_y", "Gaze, up and down", 0.1, "down", "up"],
  ["yaw_deg", "Turn of the head", 5, "to the left", "to the right"],
  ["pitch_deg", "Nod of the head", 5, "down", "up"],
  ["skin_l", "Skin, light", 5, "dark", "light"],
  ["skin_a", "Skin, green to red", 2, "green", "red"],
  ["skin_b", "Skin, blue to yellow", 2, "blue", "yellow"],
  ["light_x", "Light, sideways", 0.1, "from the left", "from the right"],
  ["light_y", "Light, up and down", 0.1, "from below", "from above"],
];
// Of these the whole range is no face.
const NARROW = { yaw_deg: [-45, 45], pitch_deg: [-30, 30], skin_l: [15, 95], skin_a: [0, 40], skin_b: [-10, 50] };
const WAIT_MS = 180;
const WORDS = { replaced: "New face", kept: "Kept as it is", redacted: "Hidden", failed: "Hidden", cloaked: "Cloaked" };

export class FaceCard {
  constructor(face, { onselect, ondecide, onmore, ontake, onadjust, onremove }) {
    Object.assign(this, { number: face.number, ontake, onadjust, sliders: new Map(), waiting: null, running: false });
    this.source = h("img", { alt: "the face as it was" });
    this.result = h("img", { alt: "the face as it becomes" });
    this.title = h("strong", {});
    this.state = h("span", { class: "muted" });
    this.head = h("button", { class: "face-head", onclick: onselect },
      h("span", { class: "pair" }, this.source, icon("arrow"), this.result), h("span", { class: "names" }, this.title, this.state));
    this.decisions = pills(`decision-${face.number}`, "What becomes of this face", DECISIONS, face.decision, ondecide);
    this.reason = h("p", { class: "why", hidden: true });
    this.choices = h("div", { class: "choices", role: "group", "aria-label": "Faces to choose from" });
    this.more = h("button", { class: "quiet", onclick: onmore }, icon("add"), "Other faces");
    this.reset = h("button", { class: "quiet", onclick: () => this.#adjust({}, true) }, icon("reset"), "As in the photo");
    this.looks = h("div", { class: "looks" },
      this.choices, this.more,
      h("div", { class: "sliders" }, FIRST.map((row) => this.#slider(row))),
      h("details", { class: "fold" }, h("summary", {}, "More sliders"), h("div", { class: "sliders" }, MORE.map((row) => this.#slider(row)))),
      this.reset);
    this.away = h("button", { class: "quiet danger", onclick: onremove }, icon("close"), "This is no face");
    this.body = h("div", { class: "face-body", id: `face-body-${face.number}` }, this.decisions, this.reason, this.looks, this.away);
    this.head.setAttribute("aria-controls", this.body.id);
    this.element = h("section", { class: "face" }, this.head, this.body);
  }

  focus() { this.head.focus(); }

  show(face, place, photo) {
    const { urls } = photo;
    this.face = face;
    const open = photo.selected === face.number;
    this.element.setAttribute("aria-label", `Face ${place + 1}`);
    this.element.classList.toggle("open", open);
    this.head.setAttribute("aria-expanded", String(open));
    this.body.hidden = !open;
    this.title.textContent = `Face ${place + 1}`;
    this.state.textContent = WORDS[face.outcome] || "Waiting";
    set(this.source, urls[`face-${face.number}`]);
    set(this.result, urls[`face-${face.number}-after`] || urls[`face-${face.number}`]);
    this.element.dataset.outcome = face.outcome || "waiting";
    this.decisions.choose(face.decision);
    const unwanted = face.decision === "replace" && face.outcome && !["replaced", "cloaked"].includes(face.outcome);
    this.reason.hidden = !unwanted;
    this.reason.textContent = unwanted ? `It was hidden: ${face.reason}.` : "";
    this.looks.hidden = face.decision !== "replace" || !face.steered || !photo.data.ready;
    for (const input of this.decisions.querySelectorAll("input")) input.disabled = !photo.ready;
    this.#choices(face, urls);
    this.more.hidden = !face.chosen || face.candidates >= visit.candidates;
    this.reset.hidden = !Object.keys(face.attributes).length;
    if (!this.waiting && !this.running) this.#sliders();
  }

  #sliders() {
    const { attributes, own } = this.face;
    for (const [name, slider] of this.sliders) slider.show(attributes[name] ?? own[name], name in attributes);
  }

  #choices(face, urls) {
    const shown = this.choices.children;
    for (let place = shown.length; place < face.candidates; place += 1) {
      this.choices.append(h("button", { class: "choice", onclick: () => this.ontake(place) }, h("img", { alt: "" })));
    }
    while (shown.length > face.candidates) this.choices.lastChild.remove();
    this.choices.hidden = face.candidates < 2;
    [...shown].forEach((button, place) => {
      set(button.firstChild, urls[`face-${face.number}-${place}`]);
      button.setAttribute("aria-label", `New face ${place + 1} of ${face.candidates}`);
      button.setAttribute("aria-pressed", String(place === face.taken));
    });
  }

  #slider([name, label, step, low, high]) {
    const [least, most] = NARROW[name] || visit.ranges[name] || [0, 1];
    const id = `${name}-${this.number}`;
    const input = h("input", { type: "range", id, min: String(least), max: String(most), step: String(step), "aria-describedby": `${id}-says` });
    const output = h("output", { for: id });
    const row = h("div", { class: "slider" }, h("label", { for: id }, label), output, input,
      h("span", { class: "ends", id: `${id}-says` }, h("span", {}, low), h("span", { class: "visually-hidden" }, " to "), h("span", {}, high)));
    const tell = () => { output.textContent = Number(input.value).toLocaleString("en", { maximumFractionDigits: 2 }); };
    input.addEventListener("input", () => {
      tell();
      row.classList.add("set");
      this.#adjust({ ...(this.wanted || this.face.attributes), [name]: Number(input.value) });
    });
    this.sliders.set(name, { show(value, set_) {
      input.value = String(value ?? (least + most) / 2);
      tell();
      row.classList.toggle("set", set_);
    } });
    return row;
  }

  // A slider that moves asks many times: the last one counts, and the next is asked when the one before is done.
  #adjust(attributes, now = false) {
    this.wanted = attributes;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(async () => {
      this.waiting = null;
      if (this.running) return;
      this.running = true;
      while (this.wanted) {
        const wanted = this.wanted;
        await this.onadjust(wanted);
        if (this.wanted === wanted) this.wanted = null;
      }
      this.running = false;
      this.#sliders();
    }, now ? 0 : WAIT_MS);
  }
}

function set(image, url) {
  if (url && image.src !== url) image.src = url;
  image.hidden = !url;
}
