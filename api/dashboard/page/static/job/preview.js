// Previews of running generations: the feed says where the latest one is, and the dialog of the job shows it.

import { h } from "../base/dom.js";
import { hasEnded, state } from "../base/state.js";

const LONGEST = 320; // pixels, as the server makes them

const latest = new Map(); // by the id of the job

/** Takes what the feed says of a job's new preview. */
export function mergePreview(preview) {
  for (const id of latest.keys()) {
    const job = state.jobs.get(id);
    if (!job || hasEnded(job)) latest.delete(id);
  }
  latest.set(preview.job_id, preview);
}

/** Returns the latest preview of the running attempt of the job; null without one. */
export function previewOf(job) {
  const found = latest.get(job.id);
  if (job.status !== "running" || !found || found.attempt !== job.attempt || found.lost) return null;
  const [width, height] = job.params.resolution.split("x").map(Number);
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  return h(
    "figure",
    { key: "preview", css: { margin: "0" } },
    h("img", {
      src: found.url,
      width: Math.round(width * scale),
      height: Math.round(height * scale),
      css: { "max-width": "100%", height: "auto", "border-radius": "6px" },
      alt: `The middle of the video after step ${found.step} of ${found.steps}`,
      on: { error: (event) => lose(found, event.target) },
    }),
    h("figcaption", { class: "small muted" }, `Preview of the middle, after step ${found.step} of ${found.steps}`),
  );
}

/** Hides a picture that is gone, because the job has just ended or Redis has lost it. The next one is shown again. */
function lose(preview, picture) {
  preview.lost = true;
  picture.closest("figure")?.remove();
}
