// Panels that lie side by side stand one below the other where the screen is narrow: the same
// drawing once per panel, cut to the panel's box (data-panels, from dpo_lib/page/panels.py).
window.dpoPanels = (() => {
  const narrow = matchMedia("(max-width: 30rem)");
  const LARGEST = 1.5; // CSS pixels per point: three small panels need not fill the screen each
  const wholes = new WeakMap(); // frame -> its drawing, in one piece

  const borrow = (piece, lender, shift) => {
    const axis = piece.querySelector(`[data-axis="${lender}"]`).cloneNode(true);
    axis.setAttribute("transform", `translate(${shift})`);
    return axis;
  };

  const cut = (whole, [index, x, y, width, height, lender, shift], widest, again) => {
    const piece = whole.cloneNode(true);
    const axis = lender === undefined ? "" : borrow(piece, lender, shift);
    piece.querySelectorAll(`[data-panel]:not([data-panel="${index}"])`).forEach((e) => e.remove());
    piece.querySelector("g").append(axis);
    piece.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    ["width", "height", "data-panels"].forEach((name) => piece.removeAttribute(name));
    piece.style.minWidth = "0";
    piece.style.width = `min(${width * LARGEST}px, ${(100 * width) / widest}%)`;
    if (again) {
      piece.removeAttribute("role");
      piece.setAttribute("aria-hidden", "true");
    }
    return piece;
  };

  // Shows what is in a frame as the screen wants it; to be called when its drawing was replaced.
  const fit = (frame) => {
    const whole = frame.querySelector("svg[data-panels]") ?? wholes.get(frame);
    if (!whole) return;
    wholes.set(frame, whole);
    const boxes = JSON.parse(whole.dataset.panels);
    const widest = Math.max(...boxes.map((box) => box[3]));
    const pieces = narrow.matches ? boxes.map((box, k) => cut(whole, box, widest, k > 0)) : [whole];
    frame.replaceChildren(...pieces);
  };

  const all = () => document.querySelectorAll(".dpo-frame").forEach(fit);
  addEventListener("DOMContentLoaded", all);
  narrow.addEventListener("change", all);
  return { fit };
})();
