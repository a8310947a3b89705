"use strict";
// A read-out of the values under the pointer, or at the place the arrow keys move to. All is read from
// the figure's own data table; without this script the page lacks nothing but that, and sorting.
for (const figure of document.querySelectorAll("figure.plotted")) {
  const area = figure.querySelector(".area");
  const cursor = area.querySelector(".cursor");
  const readout = figure.querySelector(".readout");
  const table = figure.querySelector("table");
  const names = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
  const rows = Array.from(table.tBodies[0].rows);
  if (!rows.length) continue;
  const places = rows.map((row) => Number(row.dataset.x));
  let at = 0;
  const text = (row) => {
    const cells = Array.from(row.cells, (cell) => cell.textContent);
    const values = cells.slice(1).map((value, number) => (value ? `${names[number + 1]} ${value}` : ""));
    return [`${names[0]} ${cells[0]}`, ...values.filter(Boolean)].join("  \u00b7  ");
  };
  const show = (number) => {
    at = Math.max(0, Math.min(rows.length - 1, number));
    const x = `${100 * places[at]}%`;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    readout.textContent = text(rows[at]);
    area.setAttribute("aria-valuenow", at);
    area.setAttribute("aria-valuetext", readout.textContent);
  };
  area.setAttribute("role", "slider");
  area.setAttribute("aria-valuemin", 0);
  area.setAttribute("aria-valuemax", rows.length - 1);
  area.setAttribute("aria-valuenow", 0);
  area.setAttribute("aria-valuetext", text(rows[0]));
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    let nearest = 0;
    places.forEach((place, number) => {
      if (Math.abs(place - x) < Math.abs(places[nearest] - x)) nearest = number;
    });
    show(nearest);
  });
  area.addEventListener("focus", () => show(at));
  area.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.round(rows.length / 10));
    const moves = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - page, PageUp: at + page, Home: 0, End: rows.length - 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
}

const UNITS = { ns: 1, us: 1e3, ms: 1e6, s: 1e9 };
const sortValue = (text) => {
  const found = /^([\d.,-]+)\s*(ns|us|ms|s)?$/.exec(text.trim());
  return found ? Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) : NaN;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const sorted = Array.from(body.rows).sort((one, other) => {
        const [a, b] = [one.cells[column].textContent, other.cells[column].textContent];
        const difference = sortValue(a) - sortValue(b);
        return Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference;
      });
      body.replaceChildren(...(down ? sorted.reverse() : sorted));
    });
  });
}
