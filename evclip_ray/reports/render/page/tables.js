// Tables are sorted by a button in each heading and filtered by a text. Folds are filled when they are opened.
const MAX_ROWS = 1000;
const MIN_SORTED = 3, MIN_FILTERED = 8;
const words = new Intl.Collator("en", { numeric: true });
// "1,234", "1.2e-05", "12 %" and "0.52 (0.42 to 0.62)" are numbers.
const NUMBER = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( %)?( \(.*\))?$/i;

// A step of the ladder is named `rung` in files.
const heading = (column) => ({ rung: "step", rungs: "steps" })[column] ?? column.replaceAll("_", " ");
const shown = (value) => (value === null || value === "" ? "–" : String(value));
const number = (value) => (typeof value === "number" ? value : parseFloat(value.replaceAll(",", "")));

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Returns the order of two cells of a column. Missing values come last in both directions.
function comparison(values, direction) {
  const present = values.filter((value) => shown(value) !== "–");
  const numeric = present.every((value) => typeof value === "number" || NUMBER.test(value));
  const order = numeric ? (a, b) => number(a) - number(b) : (a, b) => words.compare(String(a), String(b));
  return (a, b) => {
    const [first, second] = [a, b].map((value) => shown(value) === "–");
    return first || second ? first - second : direction * order(a, b);
  };
}

// Adds sorting and filtering to a table. `rows` has the values of all its rows, of which `limit` are displayed.
function interactive(table, rows, { limit, name, above }) {
  const body = table.tBodies[0], drawn = new Map([...body.rows].map((row, place) => [rows[place], row]));
  const numeric = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number"));
  let sorted = rows, query = "";
  const status = make("span");
  status.setAttribute("role", "status");

  const line = (row) => make("tr", {}, ...row.map((value, place) =>
    make("td", { className: numeric[place] ? "number" : "", textContent: shown(value) })));
  function draw() {
    const matching = query ? sorted.filter((row) => row.some((v) => shown(v).toLowerCase().includes(query))) : sorted;
    const visible = matching.slice(0, limit);
    for (const row of visible) if (!drawn.has(row)) drawn.set(row, line(row));
    body.replaceChildren(...visible.map((row) => drawn.get(row)));
    const hidden = rows.length - visible.length;
    status.textContent = hidden || query ? `${visible.length} of ${rows.length.toLocaleString("en")} rows` : "";
  }

  if (rows.length >= MIN_FILTERED) {
    const input = make("input", { type: "search", placeholder: "Filter rows", autocomplete: "off" });
    input.setAttribute("aria-label", `Filter rows of ${name}`);
    input.addEventListener("input", () => {
      query = input.value.trim().toLowerCase();
      draw();
    });
    above.before(make("div", { className: "find" }, input, status));
  }
  if (rows.length >= MIN_SORTED) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((cell, column) => {
      if (!cell.textContent) return;
      const button = make("button", { type: "button" }, ...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[cell.getAttribute("aria-sort")];
        const direction = next === undefined ? "ascending" : next;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        if (direction) cell.setAttribute("aria-sort", direction);
        const order = comparison(rows.map((row) => row[column]), direction === "descending" ? -1 : 1);
        sorted = direction ? rows.toSorted((a, b) => order(a[column], b[column])) : rows;
        draw();
      });
    });
  }
  draw();
}

for (const block of document.querySelectorAll("[data-sorts]")) {
  const table = block.querySelector("table"), rest = data[`rest_${block.dataset.sorts}`];
  const first = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  interactive(table, [...first, ...(rest?.rows ?? [])], {
    limit: Number(block.dataset.shown), name: block.querySelector("h3").textContent, above: table.closest(".scroll"),
  });
}

for (const details of document.querySelectorAll("details[data-table]")) {
  details.addEventListener("toggle", () => {
    if (details.dataset.filled) return;
    details.dataset.filled = "yes";
    const { columns, rows } = data[details.dataset.table], name = details.querySelector("summary").textContent;
    const cells = columns.map((column, place) => make("th", {
      scope: "col", textContent: heading(column),
      className: rows.some((row) => typeof row[place] === "number") ? "number" : "",
    }));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells)), make("tbody"));
    const scroll = make("div", { className: "scroll" }, table);
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", name);
    details.append(scroll);
    interactive(table, rows, { limit: MAX_ROWS, name, above: scroll });
    if (rows.length > MAX_ROWS) scroll.append(`The first ${MAX_ROWS} rows; the CSV file has all.`);
    watchScroll(scroll);
  });
}
