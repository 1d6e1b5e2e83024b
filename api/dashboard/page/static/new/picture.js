// The picture that a video starts from: chosen, dropped or pasted anywhere on the page, and checked before it is sent.

import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { bytes } from "../base/format.js";
import { changed, state } from "../base/state.js";
import { chosen, draft, setImage } from "./draft.js";
import { optional, problem, wrong } from "./form_fields.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];
const MAX_MB = 20;
const MAX_MEGAPIXELS = 50;
const SMALL = 64; // pixels; below, hardly anything can be seen

export function picture(entry) {
  return h(
    "div",
    { class: "field", key: "image" },
    h("label", { for: "f-image" }, entry.image === "optional" ? optional("Image") : "Image"),
    h(
      "div",
      { class: "picture" },
      draft.imageUrl ? h("img", { key: draft.imageUrl, src: draft.imageUrl, alt: "The chosen image" }) : null,
      h("input", {
        id: "f-image",
        name: "image",
        type: "file",
        accept: TYPES.join(","),
        ...wrong("image"),
        on: { change: (event) => take(event.target.files[0]) },
      }),
      draft.image
        ? h("button", { type: "button", class: "button quiet", on: { click: clear } }, "Remove")
        : null,
      h(
        "span",
        { class: "hint" },
        draft.imageText ?? `PNG, JPEG or WebP, at most ${MAX_MB} MB. Choose a file, or drop or paste it anywhere on this page.`,
      ),
    ),
    problem("image"),
  );
}

/** Checks a picture and takes it, or says what is wrong with it. */
export async function take(file) {
  if (!file) return;
  const refused = await wrongWith(file);
  if (refused.message) {
    setImage(null);
    draft.errors.image = refused.message;
    changed();
    return;
  }
  setImage(file, `${file.name || "picture"}: ${refused.width} × ${refused.height}, ${bytes(file.size)}${refused.hint ?? ""}`);
}

async function wrongWith(file) {
  if (!TYPES.includes(file.type)) return { message: `“${file.name}” is ${file.type || "of an unknown type"}. PNG, JPEG and WebP are accepted; convert it to one of them.` };
  if (file.size > MAX_MB * 1e6) return { message: `“${file.name}” has ${bytes(file.size)}; at most ${MAX_MB} MB are accepted. Choose a smaller file, or save it as JPEG.` };
  let width;
  let height;
  try {
    const image = await createImageBitmap(file);
    ({ width, height } = image);
    image.close();
  } catch {
    return { message: `“${file.name}” cannot be read as a picture; the file is damaged.` };
  }
  if (width * height > MAX_MEGAPIXELS * 1e6)
    return { message: `“${file.name}” has ${width} × ${height} pixels; at most ${MAX_MEGAPIXELS} megapixels are accepted. Scale it down.` };
  return { width, height, hint: Math.min(width, height) < SMALL ? ". It is very small, so the video will be blurred" : "" };
}

function clear() {
  setImage(null);
  const input = document.getElementById("f-image");
  input.value = "";
  input.focus();
}

/** Takes the picture of another job, which the server has. */
export async function takeFrom(url) {
  const answer = await fetch(url, { cache: "no-store" });
  if (!answer.ok) throw new Error(`The server responded with status ${answer.status}.`);
  const content = await answer.blob();
  await take(new File([content], "picture.png", { type: content.type }));
}

const isShown = () => document.documentElement.dataset.view === "new" && !document.querySelector("dialog[open]");

function given(transfer) {
  const file = [...(transfer?.files ?? [])][0];
  return file ?? null;
}

/** Listens for pictures that are dropped or pasted anywhere while the form is shown. */
export function listen() {
  addEventListener("dragover", (event) => {
    if (!isShown() || ![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    document.documentElement.classList.add("dropping");
  });
  for (const over of ["dragleave", "drop"]) {
    addEventListener(over, (event) => {
      if (over === "drop" || !event.relatedTarget) document.documentElement.classList.remove("dropping");
    });
  }
  addEventListener("drop", (event) => {
    const file = given(event.dataTransfer);
    if (!isShown() || !file) return;
    event.preventDefault();
    receive(file);
  });
  addEventListener("paste", (event) => {
    const file = given(event.clipboardData);
    if (!isShown() || !file) return;
    event.preventDefault();
    receive(file);
  });
}

function receive(file) {
  const entry = chosen();
  if (entry.image !== "refused") return take(file);
  const other = state.catalogue.find((one) => one.image === "required" && state.models?.[one.model_id]?.is_available) ?? state.catalogue.find((one) => one.image !== "refused");
  return showMessage(`${entry.model_id} makes videos from text alone.${other ? ` Choose ${other.model_id} to start from a picture.` : ""}`, "bad");
}
