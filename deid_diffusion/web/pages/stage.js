// The picture with its boxes: before, after, both with a slider between them, and drawing.

import { failure, h, icon, pills } from "./dom.js";

const MODES = [["after", "Result"], ["compare", "Compare"], ["before", "Original"]];
const STEP = 0.01;
let stages = 0;

export class Stage {
  constructor({ onselect, ondraw, ondrop, modes = true }) {
    this.onselect = onselect;
    this.ondraw = ondraw;
    this.ondrop = ondrop;
    this.mode = "after";
    this.drawing = null;
    this.before = h("img", { class: "before", alt: "", draggable: false });
    this.after = h("img", { class: "after", alt: "", draggable: false });
    this.boxes = h("div", { class: "boxes" });
    this.line = h("div", { class: "line", "aria-hidden": "true" });
    this.slider = h("input", { type: "range", class: "compare", min: "0", max: "100", value: "50", "aria-label": "How much of the original is shown, from the left" });
    this.slider.addEventListener("input", () => this.#wipe());
    this.rubber = h("div", { class: "rubber", tabIndex: 0, role: "group", hidden: true });
    this.rubber.setAttribute("aria-label", "New box. Arrow keys move it, with Shift they change its size, Enter adds it, Escape leaves");
    this.rubber.addEventListener("keydown", (event) => this.#key(event));
    this.busy = h("div", { class: "busy-note", role: "status", hidden: true }, h("span", { class: "spin", "aria-hidden": "true" }), h("span", {}));
    this.canvas = h("div", { class: "canvas" }, this.before, this.after, this.line, this.slider, this.boxes, this.rubber);
    this.canvas.addEventListener("pointerdown", (event) => this.#press(event));
    this.canvas.addEventListener("pointermove", (event) => this.#drag(event));
    this.canvas.addEventListener("pointerup", () => this.#release());
    this.canvas.addEventListener("pointercancel", () => this.#release());
    // Radio buttons of one name are one group, on all tabs together.
    stages += 1;
    this.modes = pills(`mode-${stages}`, "What is shown", MODES, "after", (mode) => { this.mode = mode; this.#shown(); });
    this.add = h("button", { class: "button", onclick: () => (this.drawing ? this.#stop() : this.#start()) }, icon("box"), h("span", {}, "Add a face"));
    this.confirm = h("button", { class: "button primary", hidden: true, onclick: () => this.#done() }, "Add this box");
    this.help = h("p", { class: "muted small help", hidden: true }, "Drag a box around the face that was missed.");
    this.failed = h("div", { class: "stage-failed", hidden: true });
    this.modes.hidden = !modes;
    this.tools = h("div", { class: "tools" }, this.modes, h("div", { class: "actions" }, this.confirm, this.add));
    this.scroll = h("div", { class: "scroll" }, this.canvas);
    this.frame = h("div", { class: "frame" }, this.scroll, this.failed, this.busy);
    this.element = h("figure", { class: "stage" }, this.frame, this.tools, this.help);
  }

  reset() {
    this.#stop();
    this.boxes.replaceChildren();
    for (const image of [this.before, this.after]) image.removeAttribute("src");
  }

  show(photo) {
    const { data, urls, status, error } = photo;
    this.photo = photo;
    this.failed.hidden = !error;
    this.scroll.hidden = Boolean(error);
    this.tools.hidden = Boolean(error) || !photo.ready;
    if (error && this.said !== error) this.failed.replaceChildren(failure(error, this.ondrop, "Remove it", "This photo cannot be opened"));
    this.said = error;
    this.busy.hidden = !status;
    this.busy.lastChild.textContent = status;
    this.frame.classList.toggle("blank", !data && !error);
    this.frame.classList.toggle("working", Boolean(status));
    if (data) {
      this.canvas.style.setProperty("--ratio", String(data.width / data.height));
      if (urls.before && this.before.src !== urls.before) this.before.src = urls.before;
      if (urls.after && this.after.src !== urls.after) this.after.src = urls.after;
      this.before.alt = `${data.name} as it was`;
      this.after.alt = `${data.name} with ${data.faces.length === 1 ? "its face" : "its faces"} changed`;
      this.#boxes(data.faces, photo);
    }
    this.add.disabled = Boolean(status);
    this.confirm.disabled = Boolean(status);
    this.#shown();
  }

  #boxes(faces, photo) {
    const { data } = photo;
    const old = new Map([...this.boxes.children].map((box) => [Number(box.dataset.number), box]));
    faces.forEach((face, place) => {
      const box = old.get(face.number) || h("button", { class: "box", onclick: () => this.onselect(face.number) }, h("span", {}));
      old.delete(face.number);
      box.dataset.number = face.number;
      box.dataset.outcome = face.outcome || "waiting";
      const label = face.label || String(place + 1);
      box.setAttribute("aria-label", `Face ${label}`);
      box.setAttribute("aria-pressed", String(photo.selected === face.number));
      box.lastChild.textContent = label;
      place_(box, face.box);
      if (!box.parentElement) this.boxes.append(box);
    });
    for (const box of old.values()) box.remove();
    const chosen = faces.find((face) => face.number === photo.selected);
    if (chosen && this.shownFace !== `${photo.selected} ${data.name}`) this.#bring(chosen.box);
    this.shownFace = chosen ? `${photo.selected} ${data.name}` : "";
  }

  // A panorama is wider than the page, and its faces may be beyond the border.
  #bring([x0, y0, x1, y1]) {
    const { clientWidth, clientHeight, scrollWidth, scrollHeight } = this.scroll;
    if (scrollWidth > clientWidth) { this.slider.value = String(50 * (x0 + x1)); this.#wipe(); }
    this.scroll.scrollTo({ left: ((x0 + x1) / 2) * scrollWidth - clientWidth / 2, top: ((y0 + y1) / 2) * scrollHeight - clientHeight / 2 });
  }

  #shown() {
    const ready = Boolean(this.photo && this.photo.urls.after);
    const mode = ready ? this.mode : "before";
    this.canvas.dataset.mode = this.drawing ? "draw" : mode;
    this.after.hidden = !ready || (mode === "before" && !this.drawing) || Boolean(this.drawing);
    this.slider.hidden = this.line.hidden = mode !== "compare" || Boolean(this.drawing);
    this.#wipe();
  }

  #wipe() {
    const share = this.canvas.dataset.mode === "compare" ? this.slider.value : 0;
    this.canvas.style.setProperty("--wipe", `${share}%`);
  }

  // ---- drawing

  #start() {
    // A square in the middle, in pixels.
    const { width, height } = this.photo.data;
    const [x, y] = [Math.min(1, height / width) / 8, Math.min(1, width / height) / 8];
    this.drawing = [0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y];
    this.rubber.hidden = this.help.hidden = this.confirm.hidden = false;
    this.add.lastChild.textContent = "Cancel";
    this.#rubber();
    this.#shown();
    this.rubber.focus();
  }

  #stop() {
    this.drawing = this.from = null;
    this.rubber.hidden = this.help.hidden = this.confirm.hidden = true;
    this.add.lastChild.textContent = "Add a face";
    this.#shown();
  }

  #done() {
    const box = this.drawing;
    this.#stop();
    this.add.focus();
    this.ondraw(box);
  }

  #rubber() { place_(this.rubber, this.drawing); }

  #at(event) {
    const area = this.canvas.getBoundingClientRect();
    const share = (value) => Math.min(Math.max(value, 0), 1);
    return [share((event.clientX - area.left) / area.width), share((event.clientY - area.top) / area.height)];
  }

  #press(event) {
    if (!this.drawing || event.button) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.from = this.#at(event);
  }

  #drag(event) {
    if (!this.from) return;
    const [x, y] = this.#at(event);
    const [left, top] = this.from;
    if (Math.abs(x - left) < 0.004 || Math.abs(y - top) < 0.004) return;
    this.drawing = [Math.min(x, left), Math.min(y, top), Math.max(x, left), Math.max(y, top)];
    this.#rubber();
  }

  #release() {
    if (this.from) this.rubber.focus();
    this.from = null;
  }

  #key(event) {
    if (event.key === "Enter") { event.preventDefault(); this.#done(); return; }
    if (event.key === "Escape") { this.#stop(); this.add.focus(); return; }
    const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [x0, y0, x1, y1] = this.drawing;
    const next = event.shiftKey ? [x0, y0, x1 + move[0], y1 + move[1]] : [x0 + move[0], y0 + move[1], x1 + move[0], y1 + move[1]];
    const sound = next[0] >= 0 && next[1] >= 0 && next[2] <= 1 && next[3] <= 1 && next[2] - next[0] > STEP && next[3] - next[1] > STEP;
    if (sound) { this.drawing = next; this.#rubber(); }
  }
}

function place_(element, [x0, y0, x1, y1]) {
  element.style.left = `${100 * x0}%`;
  element.style.top = `${100 * y0}%`;
  element.style.width = `${100 * (x1 - x0)}%`;
  element.style.height = `${100 * (y1 - y0)}%`;
}
