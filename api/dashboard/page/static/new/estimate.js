// The estimated time of the request in the form, from the server's measured jobs.

import { get } from "../base/api.js";
import { h } from "../base/dom.js";
import { requestBody } from "./draft.js";
import { gigabytes, NONE, plural, seconds } from "../base/format.js";
import { fact } from "../base/parts.js";
import { changed, state } from "../base/state.js";

const PAUSE_MS = 300;
const FRESH_MS = 15_000; // afterwards the queue has changed

let estimate = { of: null, at: 0, found: null, failed: null };
let pause = null;

export function estimatePanel(entry) {
  requestSoon(entry);
  const { found, failed } = estimate;
  const current = found?.model_id === entry.model_id ? found : null;
  const work = current?.generation_seconds;
  const loading = current && !current.warm ? current.loading_seconds : 0;
  const there = state.models?.[entry.model_id];
  return h(
    "section",
    { class: "panel cost", "aria-labelledby": "h-cost" },
    h("h2", { id: "h-cost" }, "Estimated time"),
    h("p", { class: "cost-figure" }, work == null ? "not measured yet" : `about ${seconds(work + (loading ?? 0))}`),
    h(
      "dl",
      { class: "facts" },
      fact("Generation", work == null ? NONE : seconds(work)),
      fact(
        "Loading the model",
        current?.warm ? "already loaded" : current?.loading_seconds == null ? NONE : seconds(current.loading_seconds),
      ),
      fact(
        "Waiting in the queue",
        current?.queue_seconds == null ? NONE : current.queue_seconds === 0 ? "none" : `about ${seconds(current.queue_seconds)}`,
      ),
      there && !there.is_available ? fact("Download needed", gigabytes(entry.download_gb)) : null,
    ),
    h(
      "p",
      { class: "hint" },
      failed ??
        (current?.samples
          ? `Based on the median of ${plural(current.samples, "measured job")}, scaled to this resolution, length and steps.`
          : current
            ? "No job of this model has succeeded with this quantization yet, at any speed."
            : "Loading…"),
    ),
  );
}

/** Requests the estimate for the form's values once typing has paused. */
function requestSoon(entry) {
  const form = document.querySelector(".make-form");
  const values = form ? requestBody(form, entry) : {};
  const wanted = {
    model_id: entry.model_id,
    resolution: values.resolution,
    frames: values.frames,
    steps: values.steps,
    quantization: values.quantization,
    speed: values.speed,
  };
  const of = JSON.stringify(wanted);
  const fresh = Date.now() - estimate.at < FRESH_MS;
  const whole = [wanted.frames, wanted.steps].every(
    (value) => value === undefined || (Number.isInteger(value) && value > 0),
  );
  if (!form || !whole || (estimate.of === of && fresh) || pause) return;
  pause = setTimeout(async () => {
    pause = null;
    try {
      estimate = { of, at: Date.now(), found: await get("/api/v1/dashboard/estimate", wanted), failed: null };
    } catch (error) {
      estimate = { of, at: Date.now(), found: null, failed: error.message };
    }
    changed();
  }, PAUSE_MS);
}
