// The fields of the form for a new video. Which fields and ranges there are depends on the chosen model.

import { advanced } from "./advanced.js";
import { h } from "../base/dom.js";
import { draft, setImage } from "./draft.js";
import { area, choice, count, optional, problem, real, wrong } from "./form_fields.js";
import { bytes } from "../base/format.js";
import { changed, state } from "../base/state.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const FALLBACKS = [
  ["queue_and_wait", "wait for the model"],
  ["download_and_retry", "download the model first"],
  ["alternative_model", "use another model"],
  ["reduce_requirements", "reduce memory requirements"],
  ["mock_generation", "create placeholder output"],
  ["hybrid_approach", "use another model now, download this one for later"],
];
const IMAGE_MB = 20;

export function fields(entry) {
  const given = draft.filled;
  const { defaults } = entry;
  const isFixed = (name) => entry.fixed.includes(name); // a preset's parameter is shown, and not sent
  const settled = (name) => (isFixed(name) ? defaults[name] : (given[name] ?? defaults[name]));
  const decimal = (name, label) => real(name, label, settled(name), undefined, undefined, isFixed(name));
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
    area("negative_prompt", optional("Negative prompt"), { value: given.negative_prompt, rows: 2 }),
    entry.image === "refused" ? null : picture(entry),
    h(
      "div",
      { class: "field-grid", key: `grid-${entry.model_id}` },
      choice("resolution", "Resolution", entry.resolutions, given.resolution ?? defaults.resolution),
      count("frames", "Frames", entry.frames, given.frames ?? defaults.frames),
      choice("fps", "Frames per second", entry.fps.map(String), String(given.fps ?? defaults.fps)),
      count("steps", "Steps", entry.steps, settled("steps"), undefined, isFixed("steps")),
      decimal("guidance_scale", entry.two_experts ? "Guidance, high" : "Guidance"),
      entry.two_experts ? decimal("guidance_scale_2", "Guidance, low") : null,
      decimal("flow_shift", "Flow shift"),
      count("seed", "Seed", [0, 2 ** 32 - 1], given.seed ?? "", "random"),
      choice("quantization", "Quantization", entry.quantizations, given.quantization ?? "none", {
        none: "none (native)",
      }),
      choice("speed", "Speed", entry.speeds, given.speed ?? entry.default_speed),
      entry.team_sizes.length > 1
        ? choice(
            "devices_per_job",
            "Devices",
            entry.team_sizes.map(String),
            String(given.devices_per_job ?? entry.devices_per_job),
          )
        : null,
      choice("output_format", "Format", entry.output_formats, given.output_format ?? "mp4"),
      choice("priority", "Priority", PRIORITIES, given.priority ?? "normal"),
    ),
    h(
      "fieldset",
      { class: "checks" },
      h("legend", null, "If the model is not ready"),
      FALLBACKS.map(([value, text]) =>
        h(
          "label",
          { key: value, class: "check" },
          h("input", { type: "checkbox", name: "fallback", value, checked: given.fallback?.includes(value) }),
          text,
        ),
      ),
      problem("fallback"),
    ),
    advanced(entry),
    draft.general ? h("p", { class: "note bad", role: "alert" }, draft.general) : null,
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "submit", class: "button primary", disabled: draft.sending },
        draft.sending ? "Sending…" : "Create video",
      ),
    ),
  ];
}

function hint(entry) {
  const image = {
    required: "Needs an image to start from. ",
    optional: "An image is optional. ",
    refused: "Text only. ",
  }[entry.image];
  const there = state.models?.[entry.model_id];
  const ready = there
    ? there.is_available
      ? there.is_loaded
        ? "Loaded and ready. "
        : "Ready. "
      : `Its files are ${there.availability_status}. `
    : "";
  const preset = entry.extends ? `A preset of ${entry.extends}. ` : "";
  const caveat = entry.caveat ? `${entry.caveat[0].toUpperCase()}${entry.caveat.slice(1)}. ` : "";
  return preset + image + ready + caveat + (entry.notes ?? "");
}

function picture(entry) {
  return h(
    "div",
    { class: "field", key: "image" },
    h(
      "label",
      { for: "f-image" },
      entry.image === "optional" ? optional("Image") : "Image",
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
  if (file.size > IMAGE_MB * 1e6) draft.errors.image = `The file is ${bytes(file.size)}; at most ${IMAGE_MB} MB are
  allowed. Choose a smaller file.`;
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
  const { loras } = draft.filled; // their rows are kept
  draft.filled = { prompt: form.get("prompt"), negative_prompt: form.get("negative_prompt"), loras };
  draft.errors = {};
  changed();
}

/** Handles a changed field: clears its error and the idempotency key. */
export function fieldChanged(event) {
  draft.key = null;
  delete draft.errors[event.target.name];
  if (event.target.name.startsWith("loras.")) delete draft.errors.loras;
  draft.general = null;
  changed();
}
