// What marks a video: the favourite, and the collections. The dialog of a job loads it with the first video that it shows.

import { call, get } from "../base/api.js";
import { attempt, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { afterDrawing, changed, state } from "../base/state.js";
import { addTo, loadCollections, named, nameOf, takeOut } from "./collections.js";

const known = new Map(); // videos by id, as the gallery lists them; null while one is asked for

/** Returns the job's video as the gallery lists it; null until it is known. */
function videoOf(job) {
  const video = state.gallery?.video(job.id) ?? known.get(job.id);
  if (video === undefined) look(job);
  return video ?? null;
}

/** Returns the favourite of the job's video, and what adds it to a collection; null until its marks are known. */
export function marks(job) {
  const video = videoOf(job);
  if (!video) return null;
  return [
    h(
      "button",
      { key: "star", type: "button", class: "button steer star-filter", "aria-pressed": String(video.favourite), on: { click: () => toggleFavourite(video) } },
      `${video.favourite ? "★" : "☆"} Favourite`,
    ),
    addTo((collection) =>
      attempt(async () => {
        await call("PATCH", `/api/v1/collections/${collection}`, { body: { add: [job.id] } });
        video.collections = [...new Set([...video.collections, collection])];
        await loadCollections();
      }, `Added to “${nameOf(collection)}”`, { not: `Not added to “${nameOf(collection)}”` }),
      video.collections,
    ),
  ];
}

/** Returns the favourite of the job's video as a star alone; null until it is known. */
export function star(job) {
  const video = videoOf(job);
  if (!video) return null;
  return h(
    "button",
    {
      key: "star",
      type: "button",
      class: "button quiet steer star-mark",
      "aria-pressed": String(video.favourite),
      "aria-label": `Favourite: ${video.prompt.slice(0, 80)}`,
      title: video.favourite ? "Favourite: kept until you delete it" : "Make it a favourite",
      on: { click: () => toggleFavourite(video) },
    },
    h("span", { "aria-hidden": "true" }, video.favourite ? "★" : "☆"),
  );
}

/** Returns the collections that the job's video is in, each with a button that takes it out; null if there are none. */
export function memberships(job) {
  const video = videoOf(job);
  const found = named(video?.collections ?? []);
  if (!found.length) return null;
  return h(
    "ul",
    { key: "collections", class: "chips collections", "aria-label": "Collections" },
    found.map((one) =>
      h(
        "li",
        { key: one.id },
        h("a", { href: `#gallery?collection=${one.id}` }, one.name),
        h(
          "button",
          { type: "button", class: "steer", "aria-label": `Take out of ${one.name}`, title: "Take out", on: { click: (event) => leave(video, one, event.target) } },
          "✕",
        ),
      ),
    ),
  );
}

async function leave(video, { id }, from) {
  const dialog = from.closest("dialog");
  await attempt(async () => {
    await takeOut(id, [video.id]);
    video.collections = video.collections.filter((one) => one !== id);
    await loadCollections();
    afterDrawing(() => dialog.querySelector(".add-to")?.focus()); // the focused button is gone
  }, "Taken out of the collection", { not: "Not taken out of the collection" });
}

/** The marks are asked for again when the job is shown next: they may have changed elsewhere. */
export const forget = (id) => known.delete(id);

export function toggleFavourite(video) {
  return attempt(async () => {
    const marked = !video.favourite;
    await call(marked ? "PUT" : "DELETE", `/api/v1/jobs/${video.id}/favourite`);
    video.favourite = marked;
    changed();
  }, null, { not: video.favourite ? "Still a favourite" : "Not made a favourite", again: () => toggleFavourite(video) });
}

/** Finds the video of a job: the gallery lists videos by when they finished. */
async function look({ id, finished_at, params }) {
  known.set(id, null);
  const next = new Date(Date.parse(finished_at) + 1).toISOString();
  const { model_id, resolution: size } = params;
  const query = { model_id, size, finished_after: finished_at, finished_before: next, limit: 200 };
  try {
    const [found] = await Promise.all([get("/api/v1/gallery", query), loadCollections()]);
    known.set(id, found.data.find((one) => one.id === id) ?? null);
    changed();
  } catch (error) {
    showMessage(`The favourites could not be loaded: ${error.message}`, "bad");
  }
}
