// Light or dark theme: the system's preference, unless the user chose the other one. The choice is stored while it
// differs from the system's.

const KEY = "wanworks.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

export function start(button) {
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  button.addEventListener("click", () => {
    const wanted = dark() ? "light" : "dark";
    if ((wanted === "dark") === system.matches) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    remember(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function remember(theme) {
  try {
    if (theme) localStorage.setItem(KEY, theme);
    else localStorage.removeItem(KEY);
  } catch {
    // Storage is unavailable: the choice lasts until the page is closed.
  }
}
