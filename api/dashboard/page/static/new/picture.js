// The pictures that a video starts from and ends with: chosen, dropped or pasted anywhere on the page, and checked before
// they are sent.

import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { bytes, fraction, size } from "../base/format.js";
import { button } from "../base/parts.js";
import { afterDrawing, changed, state } from "../base/state.js";
import { chosen, draft, picturesOf, resetFields, save, setPicture, valueOf } from "./draft.js";
import { choice, optional, problem, wrong } from "./form_fields.js";
import { read } from "./stored_pictures.js";

const NAMES = ["image", "last_image"];
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const MAX_MB = 20;
const MAX_MEGAPIXELS = 50;
const LOST = 0.05; // of the picture; less cut off is no news
const SMALL = 64; // pixels; below, hardly anything can be seen

const FITS = { cover: "fill the size, cut off the rest", contain: "show all of it, with an edge", auto: "size in the shape of the picture" };

/** The fields for the pictures that the model takes. */
export function pictures(entry) {
  return [
    picture("image", entry.image === "optional" ? optional("Image") : "Image", "Choose a file, or drop or paste it anywhere on this page."),
    entry.last_image && draft.image ? picture("last_image", optional("Last image"), "The picture with which the video ends.") : null,
    picturesOf(entry).length
      ? choice("fit", "Picture and size", Object.keys(FITS), draft.filled.fit ?? "cover", FITS, loss(entry) ?? "How a picture of another shape meets the size of the video.")
      : null,
  ];
}

/** Says how much of the picture is cut off, with a way to keep it; null: hardly anything is. */
function loss(entry) {
  const { width, height } = draft.image ?? {};
  const resolution = String(valueOf(entry, "resolution"));
  const [wide, high] = resolution.split("x").map(Number);
  const ratio = width / height / (wide / high);
  const lost = 1 - Math.min(ratio, 1 / ratio);
  if ((draft.filled.fit ?? "cover") !== "cover" || !(lost >= LOST)) return null;
  return [`At ${size(resolution)}, ${fraction(lost)} of the picture is cut off. `, button("Keep its shape", keepShape, { kind: "tiny" })];
}

function keepShape() {
  resetFields(chosen().model_id, { ...draft.filled, fit: "auto" });
  save();
  afterDrawing(() => document.getElementById("f-fit")?.focus());
}

/** Takes up the pictures of an earlier visit. */
export async function restorePictures() {
  const { pictures: before } = draft;
  const found = await Promise.all(NAMES.map(read));
  if (draft.pictures !== before) return; // others were chosen meanwhile
  await Promise.all(NAMES.map((name, place) => take(found[place], name)));
}

function picture(name, label, hint) {
  const given = draft[name];
  return h(
    "div",
    { class: "field", key: name },
    h("label", { for: `f-${name}` }, label),
    h(
      "div",
      { class: "picture" },
      given ? h("img", { key: given.url, src: given.url, alt: "The chosen image" }) : null,
      h("input", {
        id: `f-${name}`,
        name,
        type: "file",
        accept: TYPES.join(","),
        ...wrong(name),
        on: { change: (event) => take(event.target.files[0], name) },
      }),
      given
        ? h("button", { type: "button", class: "button quiet", "aria-label": name === "image" ? "Remove the image" : "Remove the last image", on: { click: () => clear(name) } }, "Remove")
        : null,
      h("span", { class: "hint" }, given?.text ?? `PNG, JPEG or WebP, at most ${MAX_MB} MB. ${hint}`),
    ),
    problem(name),
  );
}

/** Checks a picture and takes it, or says what is wrong with it. */
export async function take(file, name = "image") {
  if (!file) return;
  const refused = await wrongWith(file);
  if (refused.message) {
    setPicture(name, null);
    draft.errors[name] = refused.message;
    changed();
    return;
  }
  const { width, height, hint } = refused;
  setPicture(name, { file, width, height, text: `${file.name || "picture"}: ${width} × ${height}, ${bytes(file.size)}${hint}` });
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

function clear(name) {
  setPicture(name, null);
  const input = document.getElementById(`f-${name}`);
  input.value = "";
  input.focus();
}

/** Takes the picture of another job, which the server has. */
export async function takeFrom(url, name = "image") {
  const answer = await fetch(url, { cache: "no-store" });
  if (!answer.ok) throw new Error(`The server responded with status ${answer.status}.`);
  const content = await answer.blob();
  await take(new File([content], "picture.png", { type: content.type }), name);
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
  return showMessage(`${entry.model_id} makes videos from text alone.${other ? ` Choose ${other.model_id} to start from a picture.` : ""}`, "bad", { stays: false });
}
