// What is chosen for all photos or for a clip: methods and the privacy dial.

import { h } from "./dom.js";

// Value, name, and what it means.
export const METHODS = [
  ["replace", "A new face each", "Somebody who does not exist, with the pose, expression and light of the photo."],
  ["swap", "One stranger for all", "Everybody becomes the same person, who does not exist."],
  ["k-same", "The average of several people", "Of the people of all open photos, so many share one face. Nobody can tell which of them it was; it looks softer."],
  ["perturb", "Cloaked", "Misleads face recognition, and no person: everybody still recognises the face. It takes seconds a face."],
  ["blank", "Blank", "A grey box. Nothing is left."],
  ["blur", "Blur", "A smooth surface with no more in it than pixelation leaves."],
  ["pixelate", "Pixelate", "A few large squares."],
];
const PRIVACY = [
  ["standard", "Standard", "Age, gender, skin, glasses and beard are taken over in coarse steps."],
  ["high", "High", "Coarser age and pose; glasses and beard are not taken over; the mask is wider, and strangers are less alike."],
  ["maximum", "Maximum", "Age, light, glasses and beard are not taken over, and expression is coarser: results look less like the photo."],
];

// A dial with three stops.
export function privacyDial(id, onchoose) {
  const input = h("input", { type: "range", min: "0", max: String(PRIVACY.length - 1), step: "1", value: "0", id, "aria-describedby": `${id}-says` });
  const name = h("output", { for: id });
  const says = h("p", { class: "muted small", id: `${id}-says` });
  const tell = () => {
    [, name.textContent, says.textContent] = PRIVACY[input.value];
    input.setAttribute("aria-valuetext", name.textContent);
  };
  input.addEventListener("input", tell);
  input.addEventListener("change", () => onchoose(PRIVACY[input.value][0]));
  tell();
  return h("div", { class: "row slider" }, h("label", { for: id }, "Privacy"), name, input, says);
}
