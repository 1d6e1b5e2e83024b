// The form for a new video: the prompt first, then the model by what it does, shape, length and speed; the rest is
// under Advanced. Which fields and ranges there are depends on the chosen model; what was entered stays when it changes.

import { h } from "../base/dom.js";
import { number } from "../base/format.js";
import { changed } from "../base/state.js";
import { advanced } from "./advanced.js";
import { models, sizes, speeds } from "./choices.js";
import { chosen, draft, edited, enter, MOST_VIDEOS, saveSoon, valueOf } from "./draft.js";
import { area, count, problem, wrong } from "./form_fields.js";
import { pictures } from "./picture.js";
import { failure, pastPrompts, presets } from "./reusing.js";

export function fields(entry) {
  return [
    failure(entry),
    h(
      "div",
      { class: "prompt-block", key: "prompt-block" },
      area("prompt", "Prompt", {
        value: draft.filled.prompt,
        required: true,
        rows: 5,
        hint: ["What is seen, how it moves, the light and the camera.", h("span", { class: "of-keyboard" }, " Ctrl+Enter creates the video.")],
        more: { placeholder: "A paper boat drifts along a gutter in the rain, close to the water, soft evening light", "aria-keyshortcuts": "Control+Enter" },
      }),
      h("div", { class: "row wrap" }, pastPrompts(), presets(entry)),
    ),
    models(entry, chooseModel),
    // Below the models, so that choosing one does not move it.
    entry.image === "refused" ? null : pictures(entry),
    sizes(entry, String(valueOf(entry, "resolution"))),
    length(entry),
    speeds(entry, draft.filled.speed ?? entry.default_speed),
    advanced(entry),
  ];
}

/** The length in seconds beside the number of frames: each follows the other. */
function length(entry) {
  const frames = valueOf(entry, "frames");
  const fps = Number(valueOf(entry, "fps"));
  const whole = (value) => Math.round(value * 100) / 100;
  return h(
    "div",
    { class: "field-grid", key: `length-${entry.model_id}-${fps}` },
    h(
      "div",
      { class: "field", key: "seconds" },
      h("label", { for: "f-seconds" }, "Length, seconds"),
      h("input", {
        id: "f-seconds",
        name: "seconds",
        type: "number",
        inputmode: "decimal",
        step: "any",
        min: whole(entry.frames[0] / fps),
        max: whole(entry.frames[1] / fps),
        value: whole(frames / fps),
        ...wrong("seconds"),
        on: { input: (event) => follow(event, entry, fps) },
      }),
      h("p", { class: "hint" }, `${number(entry.frames[0] / fps, 1)} to ${number(entry.frames[1] / fps, 1)} s at ${fps} frames a second`),
      problem("seconds"),
    ),
    count("frames", "Frames", entry.frames, frames, undefined, false, draft.errors.frames ? null : `${entry.frames[0]} to ${entry.frames[1]}`),
    count("count", "Videos", [1, MOST_VIDEOS], draft.filled.count ?? "", "1", false, `Up to ${MOST_VIDEOS} at once, each with its own seed.`),
  );
}

function follow(event, entry, fps) {
  const seconds = Number(event.target.value);
  if (!(seconds > 0)) return;
  // The models compute frames in groups of four after the first.
  const near = Math.round((seconds * fps - 1) / 4) * 4 + 1;
  const frames = Math.min(entry.frames[1], Math.max(entry.frames[0], near));
  event.target.form.elements.frames.value = String(frames);
  enter("frames", String(frames));
}

export function chooseModel(modelId) {
  draft.model_id = modelId;
  draft.carried = new Set(["frames", "steps"]);
  draft.errors = {};
  edited();
  saveSoon();
  changed();
}

/** Handles a changed field: keeps its value, and clears its error and the idempotency key. */
export function fieldChanged(event) {
  const { name, form, type, value } = event.target;
  draft.model_id ??= chosen().model_id; // from now on it does not follow what is available
  edited();
  delete draft.errors[name];
  if (name.startsWith("loras.")) {
    delete draft.errors.loras;
    draft.filled.loras = draft.loras.map((row) => ({
      name: form.elements[`loras.${row}.name`]?.value ?? "",
      scale: form.elements[`loras.${row}.scale`]?.value ?? "",
    }));
    saveSoon();
  } else if (name === "fallback") {
    enter("fallback", new FormData(form).getAll("fallback"));
  } else if (type === "checkbox") {
    enter(name, event.target.checked);
  } else if (name && name !== "model_id" && name !== "image" && name !== "last_image" && name !== "seconds") {
    enter(name, value);
  }
  if (name === "frames" || name === "seconds") {
    draft.isLengthTyped = name === "seconds";
    for (const one of ["frames", "seconds"]) delete draft.errors[one]; // each follows the other
  }
  if (name === "frames") {
    const fps = Number(form.elements.fps.value);
    const count = Number(value || chosen().defaults.frames); // what an empty field asks for
    if (fps) form.elements.seconds.value = String(Math.round((count / fps) * 100) / 100);
  }
  changed();
}
