// The photos tab: drop, see the faces, decide, download.

import { dropZone, failure, h, icon, say } from "./dom.js";
import { FaceCard } from "./face.js";
import { follow, Lost, picture, remove, save, upload, visit, work } from "./net.js";
import { METHODS, privacyDial } from "./settings.js";
import { Stage } from "./stage.js";

const ACCEPT = "image/jpeg,image/png,image/webp,image/tiff,image/avif,image/bmp,image/gif,.heic,.heif,.tif,.jfif";
export function startPhotos(root, onLost) {
  const photos = [];
  let current = null;
  let options = { seed: null, draw: 0, method: "replace", privacy: "standard", k: 5 };

  const stage = new Stage({
    onselect: (number) => select(number),
    ondrop: () => drop(current),
    ondraw: (box) => act("draw", { box }, "Looking into the box").then((said) => said && select(said.drawn, true)),
  });
  const cards = new Map();
  const strip = h("div", { class: "strip", role: "list", "aria-label": "Photos" });
  const list = h("div", { class: "faces" });
  const heading = h("h2", {});
  const note = h("p", { class: "muted" });
  const summary = h("p", { class: "summary" });
  const one = h("button", { class: "button primary", onclick: () => download([current]) }, icon("down"), h("span", {}, "Download"));
  const all = h("button", { class: "button", onclick: () => download(photos.filter((photo) => photo.ready)) }, "Download all (zip)");
  const report = h("button", { class: "quiet", hidden: true, onclick: () => save("/api/files/report.json", "report.json").catch(fail) }, "Save the report");
  const retry = h("div", {});
  const add = h("label", { class: "add", for: "more-photos", title: "Add photos" }, icon("add"), h("span", { class: "visually-hidden" }, "Add photos"));
  const more = h("input", { type: "file", id: "more-photos", accept: ACCEPT, class: "visually-hidden", "aria-label": "Add photos" });
  more.multiple = true;
  more.addEventListener("change", () => { take([...more.files]); more.value = ""; });

  const empty = h("div", { class: "empty" },
    h("h1", {}, "Every face becomes somebody who does not exist"),
    h("p", { class: "lead" }, "Drop a photo, look at each face, decide, and save a clean file."),
    dropZone({ id: "first-photos", title: "Drop photos here", label: "Choose photos", accept: ACCEPT, symbol: "photo",
      text: visit.heic ? "JPEG, PNG, WebP, TIFF, HEIC and more" : "JPEG, PNG, WebP, TIFF and more", onfiles: (files) => take(files) }),
    h("ul", { class: "promises" },
      h("li", {}, h("strong", {}, "Stays here. "), "Nothing leaves this machine, and what you drop is removed when you close the page."),
      h("li", {}, h("strong", {}, "Fails closed. "), "A face that cannot be replaced is hidden, never left."),
      h("li", {}, h("strong", {}, "Look yourself. "), "A face that is not found stays as it is: draw a box around it.")));
  const bench = h("div", { class: "bench", hidden: true },
    h("div", { class: "left" }, h("div", { class: "strip-row" }, strip, more, add), stage.element, retry),
    h("aside", { class: "panel", "aria-label": "Faces" }, heading, note, list, settings()),
    h("div", { class: "bar" }, summary, h("div", { class: "actions" }, report, all, one)));
  root.replaceChildren(empty, bench);
  root.addEventListener("drop", (event) => {
    if (event.dataTransfer && event.dataTransfer.files.length) { event.preventDefault(); take([...event.dataTransfer.files]); }
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData ? [...event.clipboardData.files] : [];
    if (files.length && !root.hidden) take(files);
  });

  // ---- from file to faces

  function take(files) {
    for (const file of files) {
      const photo = { file, name: file.name, id: "", data: null, urls: {}, status: "Waiting", error: "", ready: false, selected: null };
      photos.push(photo);
      photo.chip = chip(photo);
      strip.append(photo.chip);
      photo.coming = queueTail().then(() => bring(photo));
    }
    empty.hidden = true;
    bench.hidden = false;
    open(photos[photos.length - files.length]);
  }

  // One after the other, so that the first is done first.
  function queueTail() { return photos.length > 1 ? photos[photos.length - 2].coming : Promise.resolve(); }

  async function bring(photo) {
    if (!photos.includes(photo)) return;
    photo.error = "";
    try {
      if (!photo.id) {
        status(photo, "Reading the file");
        photo.id = (await upload("photo", photo.file, (share) => status(photo, `Reading the file: ${Math.round(100 * share)} %`))).id;
      }
      if (!photo.data) {
        let stop = () => {};
        const told = (place) => {
          status(photo, waiting(place, "Looking for faces"));
          stop();
          if (!place) stop = follow((_, text) => photo.data || status(photo, text[0].toUpperCase() + text.slice(1)));
        };
        try {
          await update(photo, await work("look", { id: photo.id, options }, told));
        } finally { stop(); }
      }
      const count = photo.data.faces.length;
      status(photo, count ? `Making ${count === 1 ? "a new face" : `${count} new faces`}` : "Finishing");
      await update(photo, await work("make", { id: photo.id, options }, (place) => place && status(photo, waiting(place, ""))));
      photo.ready = true;
      status(photo, "");
      if (photo === current) say(told(photo));
    } catch (error) {
      if (!photos.includes(photo)) return;
      status(photo, "");
      if (onLost(error, () => bring(photo))) photo.error = "";
      else { photo.error = error.message; photo.file = null; }
      render();
    }
  }

  function waiting(place, text) {
    if (!place) return text;
    return place === 1 ? "Waiting: you are next" : `Waiting: ${place - 1} before you`;
  }

  function status(photo, text) {
    photo.status = text;
    render();
  }

  async function update(photo, data) {
    photo.data = data;
    const names = ["before", ...(data.ready ? ["after"] : [])];
    for (const face of data.faces) {
      names.push(`face-${face.number}`);
      if (data.ready) names.push(`face-${face.number}-after`);
      for (let place = 0; place < face.candidates; place += 1) names.push(`face-${face.number}-${place}`);
    }
    const urls = {};
    await Promise.all(names.map(async (name) => {
      const keep = name === "before" || /^face-\d+$/.test(name);
      urls[name] = keep && photo.urls[name] ? photo.urls[name] : await picture(`/api/photos/${photo.id}/${name}?${data.version}`);
    }));
    const old = photo.urls;
    photo.urls = urls;
    // The page shows the old ones until the new ones are drawn.
    setTimeout(() => Object.entries(old).forEach(([name, url]) => urls[name] !== url && URL.revokeObjectURL(url)), 2000);
    if (photo.selected === null && data.faces.length) photo.selected = data.faces[0].number;
    render();
  }

  // ---- decisions

  async function act(action, values, text) {
    const photo = current;
    if (!photo || !photo.ready) return null;
    status(photo, text);
    retry.replaceChildren();
    try {
      const said = await work(action, { id: photo.id, ...values }, (place) => place && status(photo, waiting(place, text)));
      await update(photo, said);
      return said;
    } catch (error) {
      if (!onLost(error, () => act(action, values, text))) fail(error);
      return null;
    } finally {
      status(photo, "");
    }
  }

  function fail(error) {
    if (!(error instanceof Lost)) retry.replaceChildren(failure(error.message, () => retry.replaceChildren(), "Close"));
  }

  function select(number, focus = false) {
    current.selected = number;
    render();
    const card = cards.get(number);
    if (!card) return;
    card.head.scrollIntoView({ block: "nearest" });
    if (focus) card.focus();
  }

  async function choose(changes) {
    options = { ...options, ...changes };
    for (const photo of photos.filter((one) => one.ready)) {
      photo.ready = false;
      await bring(photo);
    }
  }

  async function download(wanted) {
    const photo = current;
    status(photo, "Writing at full size");
    try {
      const said = await work("finish", { ids: wanted.map((one) => one.id) });
      if (wanted.length === 1) await save(`/api/photos/${wanted[0].id}/file`, wanted[0].data.out_name);
      else await save("/api/files/all.zip", "deid_photos.zip");
      report.hidden = false;
      say(wanted.length === 1 ? `${wanted[0].data.out_name} was saved` : "The zip was saved");
      if (said.faces) await update(wanted[0], said);
    } catch (error) {
      if (!onLost(error, () => download(wanted))) fail(error);
    }
    status(photo, "");
  }

  async function drop(photo) {
    const place = photos.indexOf(photo);
    photos.splice(place, 1);
    photo.chip.remove();
    Object.values(photo.urls).forEach((url) => URL.revokeObjectURL(url));
    if (photo.id) remove(photo.id).catch(() => {});
    if (photos.length) open(photos[Math.max(0, place - 1)]);
    else { current = null; bench.hidden = true; empty.hidden = false; report.hidden = true; document.getElementById("first-photos").focus(); }
  }

  // ---- what is shown

  function open(photo) {
    current = photo;
    for (const card of cards.values()) card.element.remove();
    cards.clear();
    retry.replaceChildren();
    stage.reset();
    render();
    // Who is averaged follows from all photos, also from those that came or changed since.
    if (options.method === "k-same" && photo.ready && !photo.status) bring(photo);
  }

  function chip(photo) {
    const image = h("img", { alt: "" });
    const show = h("button", { class: "thumb", onclick: () => open(photo) }, image, h("span", { class: "visually-hidden" }, photo.name));
    const away = h("button", { class: "away", "aria-label": `Remove ${photo.name}`, title: "Remove", onclick: () => drop(photo) }, icon("close"));
    const element = h("div", { class: "chip", role: "listitem" }, show, away);
    element.show = () => {
      const url = photo.urls.after || photo.urls.before;
      if (url && image.src !== url) image.src = url;
      image.hidden = !url;
      show.setAttribute("aria-current", String(photo === current));
      show.title = photo.name;
      element.classList.toggle("busy", Boolean(photo.status));
      element.classList.toggle("bad", Boolean(photo.error));
    };
    return element;
  }

  function told(photo) {
    const faces = photo.data ? photo.data.faces : [];
    if (!faces.length) return "No face was found";
    const count = (decide) => faces.filter(decide).length;
    const fresh = count((face) => face.outcome === "replaced");
    const kept = count((face) => face.outcome === "kept");
    const hidden = faces.length - fresh - kept;
    const cloaked = count((face) => face.outcome === "cloaked");
    const parts = [[fresh, "new"], [hidden - cloaked, "hidden"], [cloaked, "cloaked, which people still recognise"], [kept, "kept as it is"]].filter(([number]) => number);
    return `${faces.length === 1 ? "1 face" : `${faces.length} faces`}: ${parts.map(([number, word]) => `${number} ${word}`).join(", ")}`;
  }

  function render() {
    photos.forEach((photo) => photo.chip.show());
    strip.parentElement.classList.toggle("alone", photos.length < 2);
    if (!current) return;
    const { data, error } = current;
    stage.show(current);
    const faces = data ? data.faces : [];
    heading.textContent = data ? (faces.length ? (faces.length === 1 ? "1 face" : `${faces.length} faces`) : "No face was found") : "Faces";
    note.textContent = error ? "There is nothing to decide about this one." : !data ? "They are listed here as soon as they are found."
      : faces.length ? "Is every face boxed? A face without a box stays as it is." : "Look at the photo. If there is a face, draw a box around it; without one the photo is saved as it is, less its metadata.";
    const numbers = new Set(faces.map((face) => face.number));
    for (const [number, card] of cards) if (!numbers.has(number)) { card.element.remove(); cards.delete(number); }
    faces.forEach((face, place) => {
      if (!cards.has(face.number)) {
        cards.set(face.number, new FaceCard(face, {
          onselect: () => select(face.number),
          ondecide: (decision) => act("decide", { face: face.number, decision }, decision === "replace" ? "Making a new face" : "Changing the face"),
          onmore: () => act("more", { face: face.number }, "Making more faces to choose from"),
          ontake: (number) => act("take", { face: face.number, place: number }, "Changing the face"),
          onadjust: (attributes) => act("adjust", { face: face.number, attributes }, "Changing the face"),
          onremove: () => act("remove", { face: face.number }, "Removing the box"),
        }));
        list.append(cards.get(face.number).element);
      }
      cards.get(face.number).show(face, place, current);
    });
    const busy = Boolean(current.status);
    const ready = photos.filter((photo) => photo.ready);
    summary.textContent = error ? "" : current.ready ? told(current) : "";
    one.disabled = busy || !current.ready;
    all.hidden = ready.length < 2;
    all.disabled = busy;
    one.querySelector("span").textContent = photos.length > 1 ? "Download this photo" : "Download";
    bench.setAttribute("aria-busy", String(busy));
    document.getElementById("settings").disabled = busy || !ready.length;
  }

  function settings() {
    const method = h("select", { id: "method", "aria-describedby": "method-says" }, METHODS.map(([value, text]) => h("option", { value }, text)));
    const says = h("p", { class: "muted small", id: "method-says" });
    const people = h("input", { type: "number", id: "people", min: "2", max: "999", step: "1", value: "5", inputmode: "numeric" });
    const count = h("div", { class: "row seed" }, h("label", { for: "people" }, "People a face"), people);
    const seed = h("input", { type: "number", min: "0", step: "1", id: "seed", inputmode: "numeric", placeholder: "drawn, nobody knows it", "aria-describedby": "seed-says" });
    seed.addEventListener("change", () => { if (seed.reportValidity()) choose({ seed: seed.value === "" ? null : Number(seed.value) }); });
    people.addEventListener("change", () => { if (people.reportValidity()) choose({ k: Number(people.value) }); });
    const roll = h("button", { type: "button", onclick: () => {
      seed.value = "";
      choose({ seed: null, draw: options.draw + 1 });
    } }, icon("dice"), "Other people");
    const tell = () => {
      const keyed = visit.has_key && method.value === "replace";
      says.textContent = keyed ? "The same person becomes the same stranger in all photos and clips: this page was started with a key." : METHODS[method.selectedIndex][2];
      count.hidden = method.value !== "k-same";
      roll.parentElement.hidden = keyed || !["replace", "swap"].includes(method.value);
    };
    method.addEventListener("change", () => { tell(); choose({ method: method.value }); });
    const rows = [h("div", { class: "row" }, h("label", { for: "method" }, "Faces become"), method, says), count,
      privacyDial("privacy", (privacy) => choose({ privacy })), h("div", { class: "row" }, roll),
      h("div", { class: "row seed" }, h("label", { for: "seed" }, "Seed"), seed,
        h("p", { class: "muted small", id: "seed-says" }, "The same number gives the same people. Whoever knows it recognises more people: keep it secret."))];
    tell();
    return h("details", { class: "fold settings" }, h("summary", {}, "Settings for all photos"), h("fieldset", { class: "plain", id: "settings" }, rows));
  }

  return { forget() {
    for (const photo of [...photos]) drop(photo);
    say("The connection is back. What was open is gone; add your photos again");
  } };
}
