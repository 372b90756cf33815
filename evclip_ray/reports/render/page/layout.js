// Navigation, and signs of content beyond the edge of a box.
const nav = document.querySelector("nav");
const [menu, sections] = ["menu", "sections"].map((id) => document.getElementById(id));
const links = [...sections.querySelectorAll("a")];
// `hash` escapes the letters of names that are not ASCII, and blanks.
const targetOf = (link) => document.getElementById(link.getAttribute("href").slice(1));

// Entries that need more than two lines become a menu.
function fitNavigation() {
  nav.classList.remove("menu");
  menu.hidden = !(sections.offsetHeight > 2.6 * links[0].offsetHeight);
  nav.classList.toggle("menu", !menu.hidden);
}
function openMenu(open) {
  nav.classList.toggle("open", open);
  menu.setAttribute("aria-expanded", String(open));
}
menu.addEventListener("click", () => openMenu(!nav.classList.contains("open")));
sections.addEventListener("click", (event) => {
  openMenu(false);
  // A section whose content is one fold opens.
  const link = event.target.closest("a");
  if (link) targetOf(link).querySelector(":scope > details:not(.sources)")?.setAttribute("open", "");
});
nav.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !nav.classList.contains("open")) return;
  openMenu(false);
  menu.focus();
});
document.addEventListener("click", (event) => { if (!nav.contains(event.target)) openMenu(false); });
window.addEventListener("resize", fitNavigation);
fitNavigation();

// The current section is the last one whose heading is above the upper third of the window.
const targets = links.map(targetOf);
let waiting = false;
function markSection() {
  waiting = false;
  const current = targets.findLastIndex((target) => target.getBoundingClientRect().top < window.innerHeight / 3);
  links.forEach((link, place) => {
    if (place === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
  menu.textContent = current < 0 ? "Sections" : `Sections: ${links[current].textContent}`;
}
window.addEventListener("scroll", () => {
  if (!waiting) requestAnimationFrame(markSection);
  waiting = true;
}, { passive: true });
markSection();

// A box that scrolls sideways fades at its edge, has a line below it that says so, and takes the focus.
const hints = new WeakMap();
function showMore(box) {
  const beyond = box.scrollWidth - box.clientWidth;
  const left = box.scrollLeft > 1, right = box.scrollLeft < beyond - 1;
  box.dataset.more = left && right ? "both" : left ? "left" : right ? "right" : "";
  const scrolls = beyond > 1;
  hints.get(box).hidden = !scrolls;
  if (scrolls || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}
const resized = new ResizeObserver((entries) => {
  new Set(entries.map(({ target }) => target.closest(".scroll"))).forEach(showMore);
});
function watchScroll(box) {
  const hint = document.createElement("p");
  Object.assign(hint, { className: "hint", textContent: "↔ Scrolls sideways", hidden: true });
  hint.setAttribute("aria-hidden", "true");
  box.after(hint);
  hints.set(box, hint);
  box.addEventListener("scroll", () => showMore(box), { passive: true });
  for (const element of [box, ...box.children]) resized.observe(element);
}
document.querySelectorAll(".scroll").forEach(watchScroll);
