"use strict";
// A click on a header sorts the table by that column, the next click the other way round; dashes come last.
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const text = (row.cells[column]?.firstChild?.textContent ?? "").trim();
    const number = parseFloat(text.replace(/,/g, "").replace(/^[<>[\s]+/, ""));
    return [text, text === "" || text === "-" ? null : /^[<>[\s]*[+-]?[\d.]/.test(text) && Number.isFinite(number) ? number : text];
  };
  table.querySelectorAll("thead th").forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].map(row => [row, ...key(row, column)]).sort(([, textA, a], [, textB, b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        if (typeof a === "number" && typeof b === "number") return sign * (a - b);
        return sign * textA.localeCompare(textB, "en", { numeric: true });
      }).map(([row]) => row));
    });
  });
});
