(function () {
  "use strict";
  var box = document.getElementById("metric-filter");
  var rows = Array.prototype.slice.call(document.querySelectorAll("#metric-rows tr"));
  var count = document.getElementById("metric-count");
  var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
  function filter() {
    var words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    var shown = 0;
    rows.forEach(function (row, i) {
      var keep = words.every(function (word) { return texts[i].indexOf(word) >= 0; });
      row.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    count.textContent = shown + " of " + rows.length + " rows";
  }
  if (box) { box.hidden = false; box.addEventListener("input", filter); filter(); }

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
