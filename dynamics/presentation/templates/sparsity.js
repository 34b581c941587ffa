"use strict";
const pages = document.getElementById("pages"), body = document.querySelector("#tensor-table tbody");
const data = JSON.parse(document.getElementById("tensors").textContent), size = 200;
let rows = data.rows, page = 0, order = [-1, 1];
function draw() {
  body.replaceChildren(...rows.slice(page * size, (page + 1) * size).map(row => {
    const line = document.createElement("tr");
    row.shown.forEach((cell, i) => {
      const field = document.createElement("td");
      field.textContent = cell;
      if (i < data.text) field.className = "text";
      line.append(field);
    });
    return line;
  }));
  const last = Math.max(1, Math.ceil(rows.length / size));
  pages.querySelector("span").textContent = `${rows.length.toLocaleString("en")} tensors, page ${page + 1} of ${last}`;
  pages.querySelector("[data-step='-1']").disabled = page === 0;
  pages.querySelector("[data-step='1']").disabled = page + 1 >= last;
}
function compare(a, b) {
  const [column, sign] = order, x = a.sort[column], y = b.sort[column];
  if (x === null || y === null) return (x === null) - (y === null);
  return sign * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true }));
}
function update() {
  const wanted = document.getElementById("filter").value.toLowerCase();
  rows = data.rows.filter(row => row.shown[0].toLowerCase().includes(wanted));
  if (order[0] >= 0) rows.sort(compare);
  page = 0;
  draw();
}
pages.hidden = false;
document.getElementById("filter").addEventListener("input", update);
pages.querySelectorAll("[data-step]").forEach(b => b.addEventListener("click", () => { page += +b.dataset.step; draw(); }));
document.querySelectorAll("#tensor-table th button").forEach((button, i) => button.addEventListener("click", () => {
  order = [i, order[0] === i ? -order[1] : 1];
  update();
}));
document.querySelectorAll("[data-rule]").forEach(button => button.addEventListener("click", () => {
  const rule = +button.dataset.rule;
  document.querySelectorAll("[data-rule]").forEach(b => b.setAttribute("aria-pressed", b === button));
  document.querySelectorAll(".heat td[data-cells]").forEach(cell => {
    const [text, back, ink] = cell.dataset.cells.split("|")[rule].split(" ");
    cell.textContent = text;
    cell.style.background = back;
    cell.style.color = ink;
  });
  document.querySelectorAll("[data-scale]").forEach(scale => { scale.hidden = +scale.dataset.scale !== rule; });
}));
document.getElementById("switch").hidden = false;
draw();
