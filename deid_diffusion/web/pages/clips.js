// The clips tab: drop a clip, look at who is in it, decide, make it, play both, download.

import { dropZone, failure, h, icon, pills, say } from "./dom.js";
import { cancel, follow, Lost, newJob, picture, remove, save, upload, visit, work } from "./net.js";
import { privacyDial } from "./settings.js";
import { Stage } from "./stage.js";

const ACCEPT = "video/*,.mp4,.mov,.m4v,.avi,.mkv,.webm,.mpg,.mpeg,.wmv,.3gp";
const METHODS = [["replace", "New face"], ["blank", "Blank"], ["blur", "Blur"], ["pixelate", "Pixelate"]];
const DECISIONS = [METHODS[0], ["keep", "Keep"], ...METHODS.slice(1)];
const SOUND = [["keep", "Keep"], ["drop", "Leave out"]];
const ORIGINS = { found: "seen", interpolated: "not seen, between two sightings", extended: "not seen, just before or after", held: "lost; it may still be there" };

export function startClips(root, onLost) {
  let clip = null;
  let job = "";
  let halt = () => {};  // an upload
  const options = { method: "replace", audio: "keep", privacy: "standard" };
  const stage = new Stage({ modes: false, onselect: (number) => select(number),
    ondraw: (box) => act("clip.draw", { still: clip.still, box }, "Following the box").then((said) => said && select(said.drawn_now)) });
  const scrub = h("input", { type: "range", class: "scrub", min: "0", value: "0", step: "1", "aria-label": "Time in the clip" });
  scrub.addEventListener("input", () => { clip.still = Number(scrub.value); still(); });
  const clock = h("output", { class: "muted small clock" });
  const lanes = h("div", { class: "lanes", role: "list", "aria-label": "Faces in the clip" });
  const legend = h("p", { class: "muted small legend", hidden: true }, h("i", {}), "Hatched: no frame shows the face there. It is changed or hidden all the same; look at it.");
  const heading = h("h2", {});
  const note = h("p", { class: "muted" });
  const problem = h("div", {});
  const bar = h("progress", { max: "1", "aria-label": "Progress" });
  const words = h("span", { role: "status" });
  const stop = h("button", { onclick: () => { stop.disabled = true; words.textContent = "Stopping"; if (job) cancel(job).catch(() => {}); else halt(); } }, "Stop");
  const working = h("div", { class: "going", hidden: true }, words, bar, stop);
  const players = h("div", { class: "players", hidden: true });
  const review = h("div", {});
  const summary = h("p", { class: "summary" });
  const make = h("button", { class: "primary", onclick: () => render() }, "Make the clip");
  const get = h("button", { class: "primary", onclick: () => save(`/api/clips/${clip.id}/file`, clip.data.out_name).catch(fail) }, icon("down"), "Download");
  const look = h("button", { class: "quiet", hidden: true, onclick: () => { if (players.children.length) { players.hidden = false; show(); } else play(); } }, "Play both");
  const report = h("button", { class: "quiet", onclick: () => save("/api/files/report.json", "report.json").catch(fail) }, "Save the report");
  const away = h("button", { class: "quiet danger", onclick: close }, icon("close"), "Another clip");
  const list = h("input", { type: "file", id: "faces-list", accept: ".jsonl,.json", class: "visually-hidden", "aria-label": "Load a detections file" });
  list.addEventListener("change", async () => {
    const [file] = list.files;
    list.value = "";
    if (!file) return;
    try { const { id } = await upload("list", file); await act("clip.list", { list: id }, "Reading the file"); } catch (error) { fail(error); }
  });
  const fold = h("details", { class: "fold settings" }, h("summary", {}, "Settings"), h("fieldset", { class: "plain", id: "clip-settings" },
    h("div", { class: "row" }, h("span", { class: "label" }, "Faces become"), pills("clip-method", "Faces become", METHODS, "replace", (method) => { options.method = method; again(); }),
      h("p", { class: "muted small" }, "Where nothing else was decided about a face. Averages and cloaks are for photos alone.")),
    privacyDial("clip-privacy", (privacy) => { options.privacy = privacy; again(); }),
    h("div", { class: "row" }, h("span", { class: "label" }, "Sound"), pills("clip-sound", "Sound", SOUND, "keep", (audio) => { options.audio = audio; again(); }),
      h("p", { class: "muted small" }, "A voice says who somebody is.")),
    h("div", { class: "row" }, h("span", { class: "label" }, "Detections file"),
      h("div", { class: "actions" }, h("button", { onclick: async () => { if (await act("clip.list", {}, "Writing the file")) save(`/api/clips/${clip.id}/list`, "faces.jsonl").catch(fail); } }, icon("down"), "Save"),
        list, h("label", { class: "button", for: "faces-list" }, "Load")),
      h("p", { class: "muted small" }, "Where each face is in each frame. deid detect writes it, deid run --boxes takes it."))));
  const empty = h("div", { class: "empty" },
    h("h1", {}, "One person, one stranger, from the first frame to the last"),
    h("p", { class: "lead" }, "Drop a clip, see who is in it and when, decide who is changed, and make it."),
    dropZone({ id: "clip-file", title: "Drop a clip here", label: "Choose a clip", accept: ACCEPT, multiple: false, symbol: "film",
      text: "MP4, MOV, MKV, WebM, AVI. On a processor alone a minute takes many minutes.", onfiles: ([file]) => take(file) }));
  const bench = h("div", { class: "bench", hidden: true },
    h("div", { class: "left" }, stage.element, h("div", { class: "scrub-row" }, scrub, clock), players),
    h("aside", { class: "panel", "aria-label": "Faces in the clip" }, heading, note, lanes, legend, problem, review, fold),
    h("div", { class: "bar" }, h("div", { class: "actions" }, summary, away), working, h("div", { class: "actions" }, look, report, get, make)));
  root.replaceChildren(empty, bench);

  async function take(file) {
    clip = { file, id: "", data: null, urls: {}, still: 0, selected: null, busy: "", lanes: new Map() };
    empty.hidden = true;
    bench.hidden = false;
    players.hidden = true;
    players.replaceChildren();
    lanes.replaceChildren();
    stage.reset();
    await begin(clip);
  }

  async function begin(mine) {
    problem.replaceChildren();
    try {
      stop.disabled = false;
      if (!mine.id) mine.id = (await upload("clip", mine.file, (share) => tell(`Reading the file: ${Math.round(100 * share)} %`, share), "", (stopper) => { halt = stopper; })).id;
      await update(await long("clip.look", {}, "Looking for faces"));
    } catch (error) {
      if (clip !== mine) return;
      if (error.message === "cancelled") { close(); return; }
      if (!onLost(error, () => begin(mine))) problem.replaceChildren(failure(error.message, close, "Another clip"));
    }
    tell("");
  }

  // What takes long: its place, how far it is, and a way to stop it.
  async function long(action, values, text) {
    let unfollow = () => {};
    stop.disabled = false;
    job = newJob();
    tell(text);
    try {
      return await work(action, { id: clip.id, ...values }, (place) => {
        unfollow();
        if (place) tell(place === 1 ? "Waiting: you are next" : `Waiting: ${place - 1} before you`);
        else { tell(text); unfollow = follow((share, said) => stop.disabled || tell(said[0].toUpperCase() + said.slice(1), share)); }
      }, job);
    } finally { unfollow(); job = ""; }
  }

  async function act(action, values, text) {
    problem.replaceChildren();
    try {
      await update(await long(action, values, text));
      tell("");
      return clip.data;
    } catch (error) {
      tell("");
      if (!onLost(error, () => act(action, values, text))) fail(error);
      return null;
    }
  }

  async function render() {
    const said = await act("clip.render", options, "Making the clip");
    if (said) play();
  }

  function again() { if (clip && clip.data) { clip.data.result = {}; show(); } }

  function fail(error) {
    if (!(error instanceof Lost) && error.message !== "cancelled") problem.replaceChildren(failure(error.message, () => problem.replaceChildren(), "Close"));
  }

  function tell(text, share) {
    if (!clip) return;
    clip.busy = text;
    working.hidden = !text;
    words.textContent = text;
    if (share) bar.value = share; else bar.removeAttribute("value");
    show();
  }

  async function update(data) {
    const names = data.tracks.flatMap((track) => Array.from({ length: track.thumbs }, (_, place) => `track-${track.number}-${place}`));
    const mine = clip;
    for (const name of names) if (!mine.urls[name]) mine.urls[name] = await picture(`/api/clips/${mine.id}/${name}`);
    if (clip !== mine) return;
    clip.data = data;
    if (clip.selected === null && data.tracks.length) clip.selected = data.tracks[0].number;
    scrub.max = String(Math.max(data.stills.length - 1, 0));
    await still();
  }

  async function still() {
    const { data, urls } = clip;
    const name = `still-${clip.still}`;
    if (data && !urls[name]) urls[name] = await picture(`/api/clips/${clip.id}/${name}`);
    show();
  }

  function select(number) {
    clip.selected = number;
    const seen = clip.data.stills.findIndex(({ boxes }) => boxes.some(({ track }) => track === number));
    if (seen >= 0 && !clip.data.stills[clip.still].boxes.some(({ track }) => track === number)) {
      clip.still = seen;
      scrub.value = String(seen);
    }
    still();
  }

  function show() {
    const { data, urls, busy } = clip;
    const labels = new Map(data ? data.tracks.map((track, place) => [track.number, String(place + 1)]) : []);
    const now = data ? data.stills[clip.still] : null;
    const faces = now ? now.boxes.filter(({ track }) => labels.has(track)).map(({ track, box }) => ({ number: track, box, label: labels.get(track),
      outcome: becomes(data.tracks.find(({ number }) => number === track)) === "keep" ? "kept" : "found" })) : [];
    stage.show({ data: data && { name: data.name, width: data.width, height: data.height, faces }, urls: { before: urls[`still-${clip.still}`] },
      status: "", error: "", ready: Boolean(data), selected: clip.selected });
    stage.add.disabled = Boolean(busy);
    clock.textContent = now ? `${stamp(now.time_s)} of ${stamp(data.duration_s)}` : "";
    const count = data ? data.tracks.length : 0;
    heading.textContent = !data ? "Faces" : count === 1 ? "1 face" : count ? `${count} faces` : "No face was found";
    note.textContent = data ? "Move through the clip: is every face boxed? A face without a box stays as it is; add it." : busy ? "They are listed here as soon as the clip was looked through." : "";
    if (data) data.tracks.forEach((track, place) => lane(track, place));
    legend.hidden = !data || !data.tracks.some((track) => becomes(track) !== "keep" && track.spans.some(({ origin }) => origin !== "found"));
    for (const [number, one] of clip.lanes) if (!labels.has(number)) { one.remove(); clip.lanes.delete(number); }
    const done = data && data.result.frames;
    if (!done) { players.hidden = true; players.replaceChildren(); }
    stage.element.hidden = !players.hidden;
    scrub.parentElement.hidden = !data || !players.hidden;
    make.hidden = Boolean(done);
    get.hidden = report.hidden = !done;
    make.disabled = get.disabled = !data || Boolean(busy);
    away.hidden = !data || Boolean(busy);
    document.getElementById("clip-settings").disabled = !data || Boolean(busy);
    summary.textContent = done ? "The clip is done" : "";
    look.hidden = !done || !players.hidden;
    reviews(done ? data.result : null);
  }

  const becomes = (track) => track.decision || options.method;

  function lane(track, place) {
    let one = clip.lanes.get(track.number);
    if (!one) {
      const decision = pills(`track-${track.number}`, `What becomes of face ${place + 1}`, DECISIONS, options.method,
        (decision) => act("clip.decide", { track: track.number, decision }, "Noting it"));
      one = h("section", { class: "lane", role: "listitem" },
        h("button", { class: "lane-head", onclick: () => select(track.number) }, h("strong", {}), h("span", { class: "film" })),
        h("div", { class: "time", role: "img" }), h("div", { class: "lane-tools" }, decision,
          h("button", { class: "quiet danger", onclick: () => act("clip.remove", { track: track.number }, "Removing the box") }, icon("close"), "Remove")));
      one.decision = decision;
      clip.lanes.set(track.number, one);
      lanes.append(one);
    }
    const { data, urls } = clip;
    one.classList.toggle("open", clip.selected === track.number);
    one.classList.toggle("kept", becomes(track) === "keep");
    one.querySelector("strong").textContent = `Face ${place + 1}${track.drawn ? ", drawn" : ""}`;
    const film = one.querySelector(".film");
    if (film.children.length !== track.thumbs) film.replaceChildren(...Array.from({ length: track.thumbs }, (_, at) => h("img", { alt: "", src: urls[`track-${track.number}-${at}`] })));
    [...film.children].forEach((image, at) => { const url = urls[`track-${track.number}-${at}`]; if (url && image.src !== url) image.src = url; });
    const line = one.querySelector(".time");
    const whole = Math.max(data.duration_s, 0.001);
    line.replaceChildren(...track.spans.map((span) => {
      const bit = h("i", { title: `${stamp(span.start_s)} to ${stamp(span.stop_s)}: ${ORIGINS[span.origin]}` });
      bit.dataset.origin = span.origin;
      bit.style.left = `${(100 * span.start_s) / whole}%`;
      bit.style.width = `max(3px, ${(100 * (span.stop_s - span.start_s)) / whole}%)`;
      return bit;
    }));
    const at = h("b");
    at.style.left = `${(100 * data.stills[clip.still].time_s) / whole}%`;
    line.append(at);
    const gaps = track.spans.filter(({ origin }) => origin !== "found");
    line.setAttribute("aria-label", `From ${stamp(track.spans[0].start_s)} to ${stamp(track.spans[track.spans.length - 1].stop_s)}${gaps.length ? `; to be looked at: ${gaps.map((gap) => `${stamp(gap.start_s)} to ${stamp(gap.stop_s)}, ${ORIGINS[gap.origin]}`).join("; ")}` : ""}`);
    one.decision.choose(becomes(track));
    for (const input of one.decision.querySelectorAll("input")) input.disabled = Boolean(clip.busy);
    one.querySelector(".lane-tools .danger").hidden = !track.drawn;
  }

  function reviews(result) {
    if (!result) { review.replaceChildren(); return; }
    const name = (track) => { const place = clip.data.tracks.findIndex(({ number }) => number === track); return place < 0 ? "" : `Face ${place + 1}: `; };
    const rows = result.review.map((span) => h("li", {}, h("button", { class: "quiet", onclick: () => seek(span.start_s) }, span.stop_s - span.start_s < 0.05 ? stamp(span.start_s) : `${stamp(span.start_s)} to ${stamp(span.stop_s)}`),
      h("span", {}, `${name(span.track_id)}${span.reason}`)));
    review.replaceChildren(...(rows.length ? [h("h2", {}, "Look at these"), h("ul", { class: "review" }, rows)] : []),
      ...result.notes.map((text) => h("p", { class: "muted small" }, text)));
  }

  function seek(time) { players.querySelectorAll("video").forEach((player) => { player.currentTime = time; }); players.scrollIntoView({ block: "nearest" }); }

  // Both at once: the left one leads.
  function play() {
    const at = `/api/play/${visit.key}/${clip.id}`;
    const [before, after] = ["before", "after"].map((which) => {
      const player = h("video", { src: `${at}/${which}?${clip.data.version}`, preload: "auto", playsinline: "", "aria-label": which === "before" ? "The clip as it was" : "The clip that was made" });
      player.muted = which === "before";
      player.addEventListener("error", () => { trouble.hidden = false; });
      return player;
    });
    const trouble = h("p", { class: "why", hidden: true }, "This browser cannot play this kind of clip. The file is whole; download it.");
    const toggle = h("button", { class: "button", onclick: () => { if (after.paused) { before.currentTime = after.currentTime; before.play(); after.play(); } else { before.pause(); after.pause(); } } }, "Play both");
    const time = h("input", { type: "range", class: "scrub", min: "0", max: "1000", value: "0", "aria-label": "Time in both clips" });
    time.addEventListener("input", () => { before.currentTime = after.currentTime = (after.duration || 0) * time.value / 1000; });
    after.addEventListener("timeupdate", () => { time.value = String(Math.round(1000 * after.currentTime / (after.duration || 1))); });
    for (const name of ["play", "pause", "ended"]) after.addEventListener(name, () => { toggle.textContent = after.paused ? "Play both" : "Pause"; });
    players.replaceChildren(h("figure", {}, before, h("figcaption", { class: "muted small" }, "Before")), h("figure", {}, after, h("figcaption", { class: "muted small" }, "After")),
      h("div", { class: "both" }, toggle, time, h("button", { class: "quiet", onclick: () => { players.hidden = true; show(); } }, "Back to the faces")), trouble);
    players.hidden = false;
    show();
    say("The clip is done");
  }

  function close() {
    if (clip && clip.id) remove(clip.id).catch(() => {});
    if (clip) Object.values(clip.urls).forEach((url) => URL.revokeObjectURL(url));
    clip = null;
    problem.replaceChildren();
    bench.hidden = true;
    empty.hidden = false;
  }

  return { forget: close };
}

function stamp(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}
