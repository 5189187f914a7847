(function () {
  "use strict";
  var MOST = 300;

  // All results: unpacked from compact text when first looked at, and only the first few that match are shown.
  var data = document.getElementById("metric-data");
  var box = document.getElementById("metric-filter");
  var body = document.getElementById("metric-rows");
  var count = document.getElementById("metric-count");
  var rows = null;

  function unpack() {
    var lines = data.textContent.split("\n").map(function (line) { return line.split("\t"); });
    var names = lines.shift();
    rows = [];
    names.forEach(function (name, index) {
      lines.forEach(function (line) {
        if (!line[5 + index]) { return; }
        var part = line[5 + index].split("|");
        var cells = [name].concat(line.slice(0, 4));
        if (document.getElementById("metric-details").dataset.auc) { cells.push(line[4] || "\u2013"); }
        cells = cells.concat(part);
        rows.push({ cells: cells, text: cells.slice(0, 5).join(" ").toLowerCase() });
      });
    });
  }

  function cell(text, index) {
    var element = document.createElement(index ? "td" : "th");
    if (!index) { element.scope = "row"; }
    if (index > 4) { element.className = "num"; }
    element.textContent = text;
    return element;
  }

  function filter() {
    if (!rows) { unpack(); }
    var words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    var matching = rows.filter(function (row) {
      return words.every(function (word) { return row.text.indexOf(word) >= 0; });
    });
    body.textContent = "";
    matching.slice(0, MOST).forEach(function (row) {
      var line = document.createElement("tr");
      row.cells.map(cell).forEach(function (one) { line.appendChild(one); });
      body.appendChild(line);
    });
    count.textContent = matching.length + " of " + rows.length + " rows" + (matching.length > MOST ? ", the first " + MOST + " are shown" : "");
  }

  if (data) {
    var fold = document.getElementById("metric-details");
    box.hidden = false;
    box.addEventListener("input", filter);
    fold.addEventListener("toggle", function () { if (fold.open && !rows) { filter(); } });
  }

  var SECONDS = /^(?:([\d.]+) h)? ?(?:([\d.]+) min)? ?(?:([\d.]+) s)?$/;

  // What a cell is sorted by: its number (of a time the seconds, of a bar the first part), or else its text. What
  // stands around the value is left out; a heading over words makes words of all below it.
  function value(row, index) {
    if (!index) { return { text: row.cells[0].dataset.name, number: NaN }; }
    var bar = row.cells[index].querySelector(".bar i"), cell = row.cells[index].cloneNode(true);
    if (bar) { return { text: "", number: parseFloat(bar.style.width) }; }
    cell.querySelectorAll(".chip, .sign, .beyond, .span, .below").forEach(function (part) { part.remove(); });
    var text = cell.textContent.trim();
    if (text === "\u2013") { text = ""; }
    if (cell.className.indexOf("words") >= 0) { return { text: text, number: NaN }; }
    var plain = text.replace(/(\d),(?=\d{3})/g, "$1"), time = plain && plain.match(SECONDS);
    if (time) { return { text: text, number: 3600 * (time[1] || 0) + 60 * (time[2] || 0) + Number(time[3] || 0) }; }
    return { text: text, number: parseFloat(plain.replace("<", "")) };
  }

  function compared(a, b) {
    return isNaN(a.number) ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.number - b.number;
  }

  // Numbers, then words, then what is missing: in both directions.
  function place(key) {
    return isNaN(key.number) ? (key.text ? 1 : 2) : 0;
  }

  function unlearned(table) {
    return Array.prototype.filter.call(table.tBodies[0].rows, function (row) { return row.className.indexOf("unlearned") >= 0; });
  }

  function say(table, text) {
    var box = table.parentNode, line = box.nextElementSibling;
    if (!line || line.className !== "note order") {
      line = document.createElement("p");
      line.className = "note order";
      line.setAttribute("role", "status");
      box.parentNode.insertBefore(line, box.nextSibling);
    }
    line.textContent = text;
  }

  // A click on a heading sorts the unlearned models by that column, a second one the other way round, a third one as
  // they were; target and retain model stay on top. The numbers before the names stay, as they name models in
  // plots too, so a line says what they are while another order is shown.
  function sortBy(table, index, head, first) {
    var was = head.getAttribute("aria-sort"), down = was === "ascending", group = table.tBodies[0];
    table.querySelectorAll("th[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
    if (was === "descending") {
      first.forEach(function (row) { group.appendChild(row); });
      say(table, "");
      return;
    }
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    var ranked = unlearned(table).some(function (row) { return row.querySelector(".rank").textContent; });
    say(table, "Sorted by " + head.firstChild.textContent.trim() + (down ? ", highest first." : ", lowest first.")
      + (ranked ? " The numbers before the names stay those of the first order." : ""));
    var keyed = unlearned(table).map(function (row) { return { row: row, key: value(row, index) }; });
    keyed.sort(function (a, b) {
      return place(a.key) - place(b.key) || (down ? -1 : 1) * compared(a.key, b.key);
    });
    keyed.forEach(function (one) { group.appendChild(one.row); });
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    var lines = table.tHead.rows;
    var heads = lines.length > 1
      ? Array.prototype.slice.call(lines[0].querySelectorAll("th[rowspan]")).concat(Array.prototype.slice.call(lines[1].cells))
      : Array.prototype.slice.call(lines[0].cells);
    var first = unlearned(table);
    heads.forEach(function (head, index) {
      head.tabIndex = 0;
      head.title = "sort by this column";
      head.addEventListener("click", function () { sortBy(table, index, head, first); });
      head.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sortBy(table, index, head, first); }
      });
    });
  });

  // Say above a table or a figure that it goes on to the right.
  function mark() {
    document.querySelectorAll(".scroll, figure.wide").forEach(function (box) {
      var hint = box.previousElementSibling;
      if (hint && hint.className.indexOf("more") === 0) {
        hint.className = box.scrollWidth > box.clientWidth + 2 ? "more wide" : "more";
      }
    });
  }
  mark();
  window.addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true);

  // Only the rows of the table below that hold all the words.
  document.querySelectorAll("input[data-filter]").forEach(function (words) {
    words.hidden = false;
    words.addEventListener("input", function () {
      var wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      words.parentNode.querySelectorAll("tbody tr").forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !wanted.every(function (word) { return text.indexOf(word) >= 0; });
      });
    });
  });

  // Paper cannot unfold: open what is short before printing, and fold it again afterwards.
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.prototype.slice.call(document.querySelectorAll("details.print:not([open])"));
    folded.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = false; });
  });
})();
