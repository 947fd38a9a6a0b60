// Mathematics fits its column: displayed equations are broken by breaks.js, and formulas in the
// text that are wider than a line become pieces between which a line can end. What still scrolls
// sideways can be reached by keyboard.
(() => {
  const SCROLLERS = ".dpo-frame, div.math, .bd-article pre, .pst-scrollable-table-container";
  const LINE = "p, li, dd, dt, figcaption, summary, h1, h2, h3, h4";
  const TAG = /\\tag\{([^}]+)\}/;
  const SLACK = 1; // px

  // A number that has no room beside its equation stands below it, as in print.
  const display = (item, room) => {
    const tex = item.math.replace(TAG, "").trim(), number = item.math.match(TAG)?.[1];
    const beside = number ? 2 * dpoBreaks.width(`\\quad\\text{(${number})}`) : 0;
    if (dpoBreaks.width(tex) + beside <= room) return null;
    const tag = document.createElement("span");
    tag.className = "dpo-tag";
    tag.textContent = `(${number})`;
    return [dpoBreaks.draw(tex, room), ...(number ? [tag] : [])];
  };

  const inline = (item, room) => {
    if (dpoBreaks.width(item.math, false) <= room) return null;
    const pieces = dpoBreaks.pieces(item.math);
    return pieces.flatMap((tex) => [
      MathJax.tex2svg(tex, { display: false }),
      document.createElement("wbr"),
    ]);
  };

  const fit = () => {
    const ex = dpoBreaks.pixelsInEx();
    for (const item of window.MathJax?.startup?.document?.math ?? []) {
      // The formula itself is not in the page while its pieces are.
      const place = (item.dpoPlace ??= item.typesetRoot?.closest("div.math, span.math"));
      const column = item.display ? place : place?.closest(LINE);
      const room = column?.clientWidth ?? 0; // 0: folded
      if (!room || room === item.dpoRoom) continue;
      item.dpoRoom = room;
      const made = (item.display ? display : inline)(item, (room + SLACK) / ex);
      place.classList.toggle("dpo-broken", made !== null);
      place.replaceChildren(...(made ?? [item.typesetRoot]));
    }
  };

  const tabStops = () =>
    document.querySelectorAll(SCROLLERS).forEach((e) => {
      if (e.scrollWidth > e.clientWidth) e.tabIndex = 0;
      else e.removeAttribute("tabindex");
    });

  const all = () => {
    fit();
    tabStops();
  };

  addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(all));
  addEventListener("resize", () => requestAnimationFrame(all));
  // What was folded had no width to be measured.
  addEventListener("toggle", all, true);
})();
