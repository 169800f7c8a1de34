// Builds elements. Text goes in as text: a file's name cannot become a part of the page.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name, kind = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/pages/icons.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  if (kind) svg.setAttribute("class", kind);
  svg.append(use);
  return svg;
}

export function say(text) {
  document.getElementById("said").textContent = text;
}

// A place to drop files on, which is also a button that opens the file dialog.
export function dropZone({ id, title, text, accept, multiple = true, folder = false, symbol, label, onfiles }) {
  const input = h("input", { type: "file", id, accept, class: "visually-hidden", "aria-label": label });
  input.multiple = multiple;
  if (folder) input.webkitdirectory = true;
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) onfiles(files);
  });
  const zone = h("label", { class: "drop", for: id }, icon(symbol, "big"), h("strong", {}, title),
    h("span", { class: "button primary" }, label), h("span", { class: "muted" }, text));
  const over = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) onfiles([...event.dataTransfer.files]);
  });
  return h("div", { class: "drop-place" }, input, zone);
}

// Pills of which one is pressed, as radio buttons.
export function pills(name, label, choices, chosen, onchoose) {
  const group = h("fieldset", { class: "pills" }, h("legend", { class: "visually-hidden" }, label));
  for (const [value, text, title] of choices) {
    const input = h("input", { type: "radio", name, value, id: `${name}-${value}`, onchange: () => onchoose(value) });
    input.checked = value === chosen;
    group.append(input, h("label", { for: `${name}-${value}`, title }, text));
  }
  group.choose = (value) => { for (const input of group.querySelectorAll("input")) input.checked = input.value === value; };
  return group;
}

export function failure(text, onretry, retry = "Try again", title = "") {
  return h("div", { class: "failure", role: "alert" }, icon("warn"), h("div", {}, title && h("strong", {}, title), h("p", {}, text)),
    onretry && h("button", { class: "quiet", onclick: onretry }, retry));
}
