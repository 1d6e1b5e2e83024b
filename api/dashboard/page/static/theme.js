// Light or dark: the system's wish, until somebody says otherwise; that is remembered, and forgotten when both agree.

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
    // Storage is closed to us: the choice holds until the page is left.
  }
}
