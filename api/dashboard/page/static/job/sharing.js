// Shares a video: makes a link to it that needs no key, for a week, shows it, and copies it if the browser allows that.

import { post } from "../base/api.js";
import { attempt } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { minute } from "../base/format.js";
import { artifactOf, button, note } from "../base/parts.js";
import { afterDrawing, changed } from "../base/state.js";
import { copy } from "./copies.js";

const LINK_SECONDS = 7 * 24 * 3600;
const COPIED_MS = 5_000;
const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;

const links = new Map(); // by the id of the job: {url, expires_at, copied}

/** Returns the link of the job that this page has made; null if there is none, or it has expired. */
function linkOf(job) {
  const found = links.get(job.id);
  return found && Date.parse(found.expires_at) > Date.now() ? found : null;
}

export const shareButton = (job) =>
  artifactOf(job, "video") ? button("Share", () => share(job), { key: "share" }) : null;

function share(job) {
  return attempt(async () => {
    if (!linkOf(job)) {
      const { name } = artifactOf(job, "video");
      const made = await post(`/api/v1/jobs/${job.id}/artifacts/${name}/link`, { expires_in_seconds: LINK_SECONDS });
      links.set(job.id, { ...made, url: new URL(made.url, location.origin).href, copied: false });
    }
    afterDrawing(() => document.querySelector(".share")?.scrollIntoView({ block: "nearest" }));
    await copyLink(linkOf(job));
  });
}

/** Copies the link, and shows that on the button beside it, which takes the focus; if the browser refuses, selects it for the user to copy. */
async function copyLink(link) {
  link.copied = await copy(link.url, "the link to the video", true);
  if (link.copied) setTimeout(() => uncopied(link), COPIED_MS);
  afterDrawing(() => document.querySelector(link.copied ? ".share .button" : "#share-link")?.focus());
  changed();
}

function uncopied(link) {
  link.copied = false;
  changed();
}

/** Shows the link of the job, who can use it, and from where. */
export function sharedLink(job) {
  const link = linkOf(job);
  if (!link) return null;
  return h(
    "div",
    { class: "share", key: link.url },
    h("label", { for: "share-link" }, "Link to the video"),
    h(
      "div",
      { class: "row" },
      h("input", { id: "share-link", type: "text", readonly: true, value: link.url, on: { focus: ({ target }) => target.select() } }),
      button(link.copied ? "Copied ✓" : "Copy", () => copyLink(link), { label: link.copied ? undefined : "Copy the link" }),
    ),
    h("p", { class: "small" }, `Anyone with this link can open the video until ${minute(link.expires_at)}.`),
    LOOPBACK.test(location.hostname)
      ? note("This address works on this machine only; to share it with others see docs/security.md.", "warn")
      : null,
  );
}
