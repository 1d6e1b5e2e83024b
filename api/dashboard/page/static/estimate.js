// What the request would cost in time, by the server's measured jobs; where none was measured, that is said.

import { get } from "./api.js";
import { h } from "./dom.js";
import { said } from "./draft.js";
import { gigabytes, NONE, plural, seconds } from "./format.js";
import { fact } from "./parts.js";
import { changed, state } from "./state.js";

const PAUSE_MS = 300;
const FRESH_MS = 15_000; // the queue moves

let estimate = { of: null, at: 0, found: null, failed: null };
let pause = null;

export function cost(entry) {
  askSoon(entry);
  const { found, failed } = estimate;
  const mine = found?.model_id === entry.model_id ? found : null;
  const work = mine?.generation_seconds;
  const loading = mine && !mine.warm ? mine.loading_seconds : 0;
  const there = state.models?.[entry.model_id];
  return h(
    "section",
    { class: "panel cost", "aria-labelledby": "h-cost" },
    h("h2", { id: "h-cost" }, "What it will take"),
    h("p", { class: "cost-figure" }, work == null ? "not measured yet" : `about ${seconds(work + (loading ?? 0))}`),
    h(
      "dl",
      { class: "facts" },
      fact("Generation", work == null ? NONE : seconds(work)),
      fact(
        "Loading the model",
        mine?.warm ? "loaded already" : mine?.loading_seconds == null ? NONE : seconds(mine.loading_seconds),
      ),
      fact(
        "Waiting before it",
        mine?.queue_seconds == null ? NONE : mine.queue_seconds === 0 ? "none" : `about ${seconds(mine.queue_seconds)}`,
      ),
      there && !there.is_available ? fact("Download first", gigabytes(entry.download_gb)) : null,
    ),
    h(
      "p",
      { class: "hint" },
      failed ??
        (mine?.samples
          ? `From the median of ${plural(mine.samples, "measured job")}, scaled to this size, length and steps.`
          : mine
            ? "No job of this model has succeeded yet under this quantization."
            : "Asking…"),
    ),
  );
}

/** Asks for the estimate of what the form says, once typing has paused. */
function askSoon(entry) {
  const form = document.querySelector(".make-form");
  const values = form ? said(form, entry) : {};
  const wanted = {
    model_id: entry.model_id,
    resolution: values.resolution,
    frames: values.frames,
    steps: values.steps,
    quantization: values.quantization,
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
