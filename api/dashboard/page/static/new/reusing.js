// What the form takes up again: past prompts, presets, and a draft that was set aside. All are kept in this browser only.

import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { button } from "../base/parts.js";
import { afterDrawing, changed } from "../base/state.js";
import { draft, dropLora, edited, requestBody, resetFields, save, setPicture } from "./draft.js";
import * as stored from "./stored.js";

const PICTURES = ["image", "last_image"];

let pictures = {}; // of the draft that is set aside, by field
let closeMessage = () => {};

export function pastPrompts() {
  const rows = stored.prompts();
  if (!rows.length) return null;
  return h(
    "details",
    { key: "past", class: "menu" },
    h("summary", { class: "button quiet" }, "Past prompts"),
    h(
      "ul",
      { tabindex: "0", "aria-label": "Past prompts, newest first" },
      rows.map((prompt) => h("li", { key: prompt }, h("button", { type: "button", class: "button quiet", on: { click: (event) => use(event, prompt) } }, h("span", { class: "clamp" }, prompt)))),
    ),
  );
}

function use(event, prompt) {
  event.target.closest("details").open = false;
  const field = document.getElementById("f-prompt");
  field.value = prompt;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}

/**
 * Notes why a job failed, as its settings are copied. An error that speaks of a LoRA names it in quotes, or its file; in the
 * library, the file's name is a hash, so that the only LoRA of a job is known without a name.
 */
export function noteFailure({ error, params }) {
  const names = [...new Set((params.loras ?? []).map((one) => one.name))];
  const isNamed = (name) => [`'${name}'`, ...["", ".high", ".low"].map((expert) => ` ${name}${expert}.safetensors`)].some((one) => error.message.includes(one));
  const loras = !error.message.includes("LoRA") ? [] : names.length === 1 ? names : names.filter(isNamed);
  draft.failure = { message: error.message, loras };
  afterDrawing(() => document.querySelector(".make-form .failure")?.scrollIntoView({ block: "nearest" }));
}

/** Why the job failed whose settings the form has, until what it blames is left out. */
export function failure(entry) {
  if (!draft.failure) return null;
  const { message, loras } = draft.failure;
  const rows = (entry.loras ? draft.loras : []).filter((_, index) => loras.includes(draft.filled.loras?.[index]?.name?.trim()));
  if (loras.length && !rows.length) return null;
  const name = (row) => draft.filled.loras[draft.loras.indexOf(row)].name;
  return h(
    "div",
    { key: "failure", class: "note bad failure" },
    h("p", null, `It failed: ${message}`),
    rows.map((row) => button(`Remove the LoRA ${name(row)}`, () => leaveOut(row), { key: row })),
  );
}

/** Removes a LoRA with a button that goes with it. */
export function leaveOut(row) {
  dropLora(row);
  save();
  focusCreate();
}

/** Gives the focus of a button that is gone to the one that creates the video. */
export function focusCreate() {
  afterDrawing(() => document.querySelector(".make-go .primary")?.focus({ preventScroll: true }));
}

export function presets(entry) {
  const names = Object.keys(stored.presets()).sort();
  return h(
    "details",
    { key: "presets", class: "menu" },
    h("summary", { class: "button quiet" }, "Presets"),
    h(
      "div",
      { class: "menu-body" },
      h("p", { class: "hint" }, "Settings by name, without the prompt and the picture. They are kept in this browser only."),
      names.length
        ? h(
            "ul",
            null,
            names.map((name) =>
              h(
                "li",
                { key: name, class: "row between" },
                h("button", { type: "button", class: "button quiet", on: { click: (event) => apply(event, name) } }, name),
                button("Remove", () => remove(name), { kind: "quiet danger", label: `Remove the preset ${name}` }),
              ),
            ),
          )
        : null,
      h(
        "div",
        { class: "row" },
        h("input", { id: "preset-name", maxlength: 40, placeholder: "name", "aria-label": "Name of a new preset", on: { keydown: (event) => keyed(event, entry) } }),
        button("Save", () => keep(entry), { label: "Save the settings as a preset" }),
      ),
    ),
  );
}

function keyed(event, entry) {
  if (event.key !== "Enter") return;
  event.preventDefault();
  keep(entry);
}

function keep(entry) {
  const field = document.getElementById("preset-name");
  const name = field.value.trim();
  if (!name) return field.focus();
  const { prompt, seed, ...rest } = requestBody(document.querySelector(".make-form"), entry);
  const kept = stored.savePreset(name, rest);
  if (kept) field.value = "";
  changed();
  return showMessage(kept ? `The preset ${name} is saved in this browser.` : "The browser's storage is unavailable.", kept ? "good" : "bad", { stays: false });
}

function apply(event, name) {
  event.target.closest("details").open = false;
  const { model_id, ...rest } = stored.presets()[name];
  resetFields(model_id, { ...rest, prompt: draft.filled.prompt });
  save();
  showMessage(`Preset ${name}`);
}

function remove(name) {
  stored.dropPreset(name);
  changed();
}

/**
 * Sets the form's draft aside if `prompt`, of the job whose settings replace it, would replace one that was not sent. It is
 * kept until it is taken back or dismissed; its pictures until the page is closed.
 */
export function setAside(prompt) {
  const { model_id, filled, settled } = draft;
  const written = filled.prompt?.trim();
  if (!written || filled.prompt === settled || written === prompt.trim()) return;
  stored.saveAside({ model_id, filled });
  stored.rememberPrompt(written);
  pictures = Object.fromEntries(PICTURES.map((name) => [name, draft[name]]));
}

/** Shows a message with what can be done; as long as a draft is set aside, also with the way back to it. */
export function offer(text, actions, milliseconds) {
  closeMessage();
  const isAside = stored.aside() !== null;
  closeMessage = showMessage(text, "info", {
    actions: isAside ? [...actions, { text: "Back to my draft", act: takeBack }] : actions,
    milliseconds: isAside ? Infinity : milliseconds,
    dismissed: forget,
    only: isAside,
  });
}

/** Gives up a fixed seed: each video made from now on has a random one. */
export function newSeed() {
  const field = document.getElementById("f-seed");
  if (field) field.value = "";
  draft.filled.seed = "";
  edited();
  delete draft.errors.seed;
  save();
  changed();
  offer("Each video gets a new seed.", []);
}

function forget() {
  stored.saveAside(null);
  pictures = {};
}

function takeBack() {
  const { model_id, filled } = stored.aside();
  const given = pictures;
  forget();
  resetFields(model_id, filled);
  for (const name of PICTURES) setPicture(name, given[name] ?? null);
  save();
  location.hash = "new"; // the address no longer names the job
}
