// The player of a job's video, and what stands in its place where the video cannot be loaded.

import { h } from "../base/dom.js";
import { artifactOf, button, note, titleOf } from "../base/parts.js";
import { changed } from "../base/state.js";

const broken = new Map(); // why a video could not be loaded, by its address
let tries = 0;

/** Returns the player; null: the job has no video. `kind`: its class; `more`: further attributes. */
export function player(job, kind, more = {}) {
  const video = artifactOf(job, "video");
  if (!video) return null;
  if (broken.has(video.url)) return instead(video.url);
  const { width, height } = job.result;
  return h("video", {
    key: `${video.url} ${tries}`,
    class: `player ${kind}`,
    controls: true,
    preload: "metadata",
    src: video.url,
    poster: artifactOf(job, "thumbnail")?.url,
    width,
    height,
    playsinline: true,
    loop: true,
    "aria-label": `Video: ${titleOf(job)}`,
    on: { error: () => failed(video.url) },
    ...more,
  });
}

/** Finds out why a video could not be loaded: the element's own error says only that it could not. */
async function failed(url) {
  const answer = await fetch(url, { method: "HEAD", cache: "no-store" }).catch(() => null);
  const why =
    answer === null
      ? "The server does not respond."
      : answer.status === 404
        ? "Its file is no longer stored."
        : answer.ok
          ? "This browser cannot play it. Download it instead."
          : `The server responded with status ${answer.status}.`;
  broken.set(url, { why, mayReturn: answer?.status !== 404 });
  changed();
}

function instead(url) {
  const { why, mayReturn } = broken.get(url);
  const again = () => {
    broken.delete(url);
    tries += 1;
    changed();
  };
  return h("div", { key: `broken ${url}`, class: "row wrap" }, note(`The video could not be loaded. ${why}`, "bad"), mayReturn ? button("Try again", again) : null);
}
