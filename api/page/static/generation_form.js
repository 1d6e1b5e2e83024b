// The fields of a request for a video, as the chosen model allows them; each with what is wrong with it.

import { h } from "./dom.js";
import { draft, setImage } from "./draft.js";
import { bytes } from "./format.js";
import { changed, state } from "./state.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const FALLBACKS = [
  ["queue_and_wait", "wait for the model"],
  ["download_and_retry", "fetch the model first"],
  ["alternative_model", "take another model"],
  ["reduce_requirements", "make it smaller"],
  ["mock_generation", "make a test card instead"],
];
const IMAGE_MB = 20;

export function fields(entry) {
  const given = draft.filled;
  const { defaults } = entry;
  return [
    h(
      "div",
      { class: "field" },
      h("label", { for: "f-model_id" }, "Model"),
      h(
        "select",
        {
          id: "f-model_id",
          name: "model_id",
          value: entry.model_id,
          "aria-describedby": "model-hint",
          on: { change: chooseModel },
        },
        state.catalogue.map((one) => h("option", { key: one.model_id, value: one.model_id }, one.model_id)),
      ),
      h("p", { id: "model-hint", class: "hint" }, hint(entry)),
      problem("model_id"),
    ),
    area("prompt", "Prompt", { value: given.prompt, required: true, rows: 4 }),
    area("negative_prompt", "Negative prompt", { value: given.negative_prompt, rows: 2, optional: true }),
    entry.image === "refused" ? null : picture(entry),
    h(
      "div",
      { class: "field-grid", key: `grid-${entry.model_id}` },
      choice("resolution", "Resolution", entry.resolutions, given.resolution ?? defaults.resolution),
      count("frames", "Frames", entry.frames, given.frames ?? defaults.frames),
      choice("fps", "Frames a second", entry.fps.map(String), String(given.fps ?? defaults.fps)),
      count("steps", "Steps", entry.steps, given.steps ?? defaults.steps),
      real(
        "guidance_scale",
        entry.two_experts ? "Guidance, high" : "Guidance",
        given.guidance_scale ?? defaults.guidance_scale,
      ),
      entry.two_experts
        ? real("guidance_scale_2", "Guidance, low", given.guidance_scale_2 ?? defaults.guidance_scale_2)
        : null,
      real("flow_shift", "Flow shift", given.flow_shift ?? defaults.flow_shift),
      count("seed", "Seed", [0, 2 ** 32 - 1], given.seed ?? "", "drawn"),
      choice("quantization", "Quantization", entry.quantizations, given.quantization ?? "none", {
        none: "none (native)",
      }),
      choice("output_format", "Format", entry.output_formats, given.output_format ?? "mp4"),
      choice("priority", "Priority", PRIORITIES, given.priority ?? "normal"),
    ),
    h(
      "fieldset",
      { class: "checks" },
      h("legend", null, "If the model is not ready"),
      FALLBACKS.map(([value, text]) =>
        h("label", { key: value, class: "check" }, h("input", { type: "checkbox", name: "fallback", value }), text),
      ),
      problem("fallback"),
    ),
    draft.general ? h("p", { class: "note bad", role: "alert" }, draft.general) : null,
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "submit", class: "button primary", disabled: draft.sending },
        draft.sending ? "Sending…" : "Make the video",
      ),
    ),
  ];
}

function hint(entry) {
  const image = {
    required: "Starts from your image. ",
    optional: "An image is optional. ",
    refused: "From text alone. ",
  }[entry.image];
  const there = state.models?.[entry.model_id];
  const ready = there
    ? there.is_available
      ? there.is_loaded
        ? "Loaded and ready. "
        : "Ready. "
      : `Its files are ${there.availability_status}. `
    : "";
  return image + ready + (entry.notes ?? "");
}

function field(name, label, control, more) {
  return h("div", { class: "field", key: name }, h("label", { for: `f-${name}` }, label), control, more, problem(name));
}

function problem(name) {
  return draft.errors[name] ? h("p", { id: `e-${name}`, class: "field-error" }, draft.errors[name]) : null;
}

const wrong = (name) => (draft.errors[name] ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {});

function area(name, label, { value, rows, optional, required }) {
  return field(
    name,
    optional ? [label, h("span", { class: "muted" }, " optional")] : label,
    h("textarea", { id: `f-${name}`, name, rows, value: value ?? "", maxlength: 5000, required, ...wrong(name) }),
  );
}

function choice(name, label, options, value, texts = {}) {
  return field(
    name,
    label,
    h(
      "select",
      { id: `f-${name}`, name, value, ...wrong(name) },
      options.map((one) => h("option", { key: one, value: one }, texts[one] ?? one)),
    ),
  );
}

function count(name, label, [min, max], value, placeholder) {
  return field(
    name,
    label,
    h("input", {
      id: `f-${name}`,
      name,
      type: "number",
      inputmode: "numeric",
      min,
      max,
      step: 1,
      value,
      placeholder,
      ...wrong(name),
    }),
  );
}

function real(name, label, value) {
  return field(
    name,
    label,
    h("input", {
      id: `f-${name}`,
      name,
      type: "number",
      inputmode: "decimal",
      min: 0,
      step: "any",
      value,
      ...wrong(name),
    }),
  );
}

function picture(entry) {
  return h(
    "div",
    { class: "field", key: "image" },
    h(
      "label",
      { for: "f-image" },
      "Image",
      entry.image === "optional" ? h("span", { class: "muted" }, " optional") : null,
    ),
    h(
      "div",
      { class: "picture", on: { dragover: (event) => event.preventDefault(), drop: dropped } },
      draft.imageUrl ? h("img", { key: draft.imageUrl, src: draft.imageUrl, alt: "The chosen image" }) : null,
      h("input", {
        id: "f-image",
        name: "image",
        type: "file",
        accept: "image/png,image/jpeg,image/webp",
        ...wrong("image"),
        on: { change: (event) => choosePicture(event.target.files[0]) },
      }),
      draft.image
        ? h("button", { type: "button", class: "button quiet", on: { click: clearPicture } }, "Remove")
        : h("span", { class: "hint" }, `PNG, JPEG or WebP, at most ${IMAGE_MB} MB. Drop it here or choose a file.`),
    ),
    problem("image"),
  );
}

function dropped(event) {
  event.preventDefault();
  choosePicture(event.dataTransfer.files[0]);
}

function choosePicture(file) {
  if (!file) return;
  setImage(file);
  if (file.size > IMAGE_MB * 1e6) draft.errors.image = `It has ${bytes(file.size)}; at most ${IMAGE_MB} MB are taken.`;
}

function clearPicture() {
  setImage(null);
  const input = document.getElementById("f-image");
  input.value = "";
  input.focus();
}

function chooseModel(event) {
  const form = new FormData(event.target.form);
  draft.model_id = event.target.value;
  draft.filled = { prompt: form.get("prompt"), negative_prompt: form.get("negative_prompt") };
  draft.errors = {};
  changed();
}

/** Something was changed: another request now. */
export function touched(event) {
  draft.key = null;
  if (draft.errors[event.target.name]) delete draft.errors[event.target.name];
  draft.general = null;
  changed();
}
