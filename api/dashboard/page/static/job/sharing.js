// Shares a video: makes a link to it that needs no key, for a week, shows it, and copies it if the browser allows that.

import { post } from "../base/api.js";
import { attempt, topmost } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { minute } from "../base/format.js";
import { artifactOf, button, note, titleOf } from "../base/parts.js";
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

export const shareButton = (job, kind = "") =>
  artifactOf(job, "video") ? button("Share", () => share(job), { key: "share", kind, label: `Share: ${titleOf(job).slice(0, 60)}` }) : null;

/** Opens the job, where its link is shown, and shares it. */
export function shareAt(job) {
  location.hash = `job/${job.id}`;
  share(job);
}

/** Returns an element of the shared link, where it can be used: in the dialog that is open, else in the page. */
const partOf = (job, selector) => topmost().querySelector(`.share[data-of="${job.id}"] ${selector}`);

function share(job) {
  return attempt(async () => {
    if (!linkOf(job)) {
      const { name } = artifactOf(job, "video");
      const made = await post(`/api/v1/jobs/${job.id}/artifacts/${name}/link`, { expires_in_seconds: LINK_SECONDS });
      links.set(job.id, { ...made, url: new URL(made.url, location.origin).href, copied: false });
    }
    afterDrawing(() => partOf(job, "")?.scrollIntoView({ block: "nearest" }));
    await copyLink(job);
  }, null, { not: "No link was made" });
}

/** Copies the link, and shows that on the button beside it, which takes the focus; if the browser refuses, selects it for the user to copy. */
async function copyLink(job) {
  const link = linkOf(job);
  link.copied = await copy(link.url, "the link to the video", true);
  if (link.copied) setTimeout(() => uncopied(link), COPIED_MS);
  afterDrawing(() => partOf(job, link.copied ? ".button" : "input")?.focus());
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
    { class: "share", key: link.url, "data-of": job.id },
    h(
      "div",
      { class: "row" },
      h("label", { class: "field" }, h("span", null, "Link to the video"), h("input", { type: "text", readonly: true, value: link.url, on: { focus: ({ target }) => target.select() } })),
      button(link.copied ? "Copied ✓" : "Copy", () => copyLink(job), { label: link.copied ? undefined : "Copy the link" }),
    ),
    h("p", { class: "small" }, `Anyone with this link can open the video until ${minute(link.expires_at)}.`),
    LOOPBACK.test(location.hostname)
      ? note(
          [
            "This address works on this machine only. For others in your network, create a key with ",
            h("code", null, "wanworks keys create"),
            ", start again with ",
            h("code", null, "WANWORKS_HOST=0.0.0.0"),
            ", and share from the address that they reach. The page Security of the documentation has the details: “Share beyond this machine”.",
          ],
          "warn",
        )
      : null,
  );
}
