// Charts are drawn when they are about to scroll into view, so that a long page opens quickly.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const [data, charts, themes] = ["data", "charts", "themes"].map(read);
const root = document.documentElement;
const system = window.matchMedia("(prefers-color-scheme: dark)");
const choices = { auto: "system", light: "light", dark: "dark" };
let choice = "auto";
try { choice = localStorage.getItem("evclip-ray-scheme") || "auto"; } catch { /* a file may have no storage */ }
if (!(choice in choices)) choice = "auto";

const scheme = () => (choice === "auto" ? (system.matches ? "dark" : "light") : choice);
const objects = {};
const rowsOf = (name) => (objects[name] ??= data[name].rows.map((row) =>
  Object.fromEntries(row.map((cell, place) => [data[name].columns[place], cell]))));

// In a narrow chart, a row of a legend has space for one name, and legends stand below each other.
function themed(name, width) {
  const { legend, ...others } = themes[name];
  const narrow = { columns: 1, gradientLength: 100, layout: { top: { direction: "vertical", anchor: "start" } } };
  return width >= 500 ? themes[name] : { ...others, legend: { ...legend, ...narrow } };
}

// A square plot has a side of its own; all other charts fill the width of the page.
function size({ height, square }, width) {
  // In a narrow chart, the legends take several rows.
  const tall = width >= 500 ? height : 1.15 * height;
  if (!square) return { width: "container", height: tall - 8, autosize: { type: "fit", contains: "padding" } };
  const [largest, margin] = square;
  const side = Math.min(largest, width - margin);
  return { width: side, height: side, autosize: { type: "pad", contains: "padding" } };
}

async function draw(element) {
  const { spec, data: names, renderer, ...room } = charts[element.dataset.chart];
  const drawing = scheme();
  element.dataset.drawn = "under way";
  const filled = {
    ...spec, ...size(room, element.clientWidth),
    datasets: Object.fromEntries(
      Object.entries(names).map(([name, local]) => [local, rowsOf(name).map((row) => ({ ...row }))])),
  };
  const { view } = await vegaEmbed(element, filled, {
    config: themed(drawing, element.clientWidth), renderer, theme: undefined, tooltip: { theme: drawing },
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  element.querySelector("summary")?.setAttribute("aria-label", "Save the chart as an image");
  // A square chart knows its height only now.
  if (room.square) element.style.minHeight = 0;
  element.vegaView?.finalize();
  element.vegaView = view;
  element.dataset.drawn = drawing;
  if (drawing !== scheme()) await draw(element);
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
const drawings = [...document.querySelectorAll("[data-chart]")];

function recolour() {
  root.dataset.scheme = scheme();
  document.getElementById("scheme").textContent = `Colours: ${choices[choice]}`;
  for (const element of drawings) if (element.dataset.drawn) draw(element);
}
document.getElementById("scheme").addEventListener("click", () => {
  const names = Object.keys(choices);
  choice = names[(names.indexOf(choice) + 1) % names.length];
  try { localStorage.setItem("evclip-ray-scheme", choice); } catch { /* as above */ }
  recolour();
});
system.addEventListener("change", recolour);
recolour();
drawings.forEach((element) => near.observe(element));
window.addEventListener("beforeprint", () => {
  drawings.filter((element) => !element.dataset.drawn).forEach(draw);
  document.querySelector("#conditions details").open = true;
});
