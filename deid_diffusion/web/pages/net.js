// Talks to the server: visits, uploads, pictures, and the queue in front of the one model.

const QUEUE = "/engine/gradio_api/queue/";
const SECRET = "deid-visit";
// A frame on somebody's page may keep nothing; then a page that is loaded again begins anew.
const kept = { get: () => { try { return sessionStorage.getItem(SECRET) || ""; } catch { return ""; } },
  set: (secret) => { try { sessionStorage.setItem(SECRET, secret); } catch { /* as above */ } } };
export const visit = { secret: kept.get(), key: "", limits: {}, ranges: {}, candidates: 0 };

export class Lost extends Error {}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "x-deid-visit": visit.secret, ...(options.headers || {}) } });
  } catch {
    throw new Lost("The connection to deid is gone. Is it still running?");
  }
  if (!answer.ok && answer.status !== 404) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `The server answered ${answer.status}; load the page again`);
  }
  return answer;
}

// Whether this visit is a new one: then nothing of an earlier one is left.
export async function open() {
  const said = await (await ask("/api/visit", { method: "POST" })).json();
  Object.assign(visit, said);
  kept.set(visit.secret);
  return said.new;
}

export function leave() {
  if (visit.secret) navigator.sendBeacon("/api/leave", visit.secret);
}

export const remove = (id) => ask(`/api/items/${id}`, { method: "DELETE" });
export const cancel = (job) => ask(`/api/cancel?job=${job}`, { method: "POST" });
// A name for something to do, by which it can be stopped.
export const newJob = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
export const begin = async (what) => (await (await ask(`/api/${what}`, { method: "POST" })).json()).id;

// Asks how far the model is, until it is told to stop.
export function follow(onProgress) {
  const timer = setInterval(async () => {
    try {
      const { share, text } = await (await ask("/api/progress")).json();
      if (text) onProgress(share, text);
    } catch { /* whoever waits for the work is told */ }
  }, 700);
  return () => clearInterval(timer);
}

export function upload(kind, file, onShare = () => {}, group = "", onStart = () => {}) {
  return new Promise((resolve, reject) => {
    if (file.size > visit.limits.max_bytes) {
      // The server says the same; this saves sending it.
      const most = Math.round(visit.limits.max_bytes / 1e6).toLocaleString("en");
      const got = Math.round(file.size / 1e6).toLocaleString("en");
      reject(new Error(`${file.name}: wanted at most ${most} MB, got ${got} MB; deid web --max-mb N raises the limit, and deid run has none`));
      return;
    }
    const request = new XMLHttpRequest();
    request.open("POST", `/api/upload?kind=${kind}&group=${group}&name=${encodeURIComponent(group ? file.webkitRelativePath || file.name : file.name)}`);
    request.setRequestHeader("x-deid-visit", visit.secret);
    request.upload.onprogress = (event) => onShare(event.loaded / Math.max(event.total, 1));
    request.onerror = () => reject(new Lost("The connection to deid is gone. Is it still running?"));
    request.onload = () => {
      let said = {};
      try { said = JSON.parse(request.responseText); } catch { /* not ours */ }
      if (request.status === 200) resolve(said);
      else reject(new Error(said.error || `The server answered ${request.status}; load the page again`));
    };
    request.onabort = () => reject(new Error("cancelled"));
    onStart(() => request.abort());
    request.send(file);
  });
}

// An address of this page alone, so that no address of the server shows a picture to whoever has it.
export async function picture(path) {
  const answer = await ask(path);
  return answer.ok ? URL.createObjectURL(await answer.blob()) : "";
}

export async function save(path, name) {
  const url = await picture(path);
  if (!url) throw new Error("The file is gone; make it again");
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// One thing for the model to do. onPlace is told how many are before it, and 0 when it begins.
export async function work(action, values = {}, onPlace = () => {}, job = newJob()) {
  const body = JSON.stringify({ data: [visit.secret, action, { ...values, job }], fn_index: 0, session_hash: job });
  const joined = await ask(`${QUEUE}join`, { method: "POST", body, headers: { "content-type": "application/json" } });
  await joined.json();
  return new Promise((resolve, reject) => {
    const events = new EventSource(`${QUEUE}data?session_hash=${job}`);
    const end = (settle, value) => { events.close(); settle(value); };
    events.onerror = () => end(reject, new Lost("The connection to deid is gone. Is it still running?"));
    events.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.msg === "estimation") onPlace(message.rank + 1);
      if (message.msg === "process_starts") onPlace(0);
      if (message.msg === "unexpected_error") end(reject, new Lost(message.message));
      if (message.msg !== "process_completed") return;
      const said = message.success && message.output.data ? message.output.data[0] : { error: "The model broke; load the page again" };
      if (said.error) end(reject, new Error(said.error));
      else end(resolve, said);
    };
  });
}
