// An equation's number shows the equation while it is pointed at or focused.
(() => {
  const TAG = /\\tag\{[^}]+\}/;
  const WIDEST = 640, MARGIN = 16, BORDER = 1; // px, as in book.css; the margin is the padding too
  const preview = document.createElement("div");
  preview.className = "dpo-eq-preview";
  preview.id = "dpo-eq-preview";
  preview.setAttribute("role", "tooltip");
  preview.hidden = true;
  let shown = null;

  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    preview.hidden = true;
    shown = null;
  };

  const show = async (link) => {
    const tex = window.dpoEquations?.[link.hash.slice(1)];
    if (!tex || shown === link || !window.MathJax?.tex2svgPromise) return;
    hide();
    shown = link;
    await MathJax.tex2svgPromise(tex, { display: true }); // loads what it needs
    if (shown !== link) return; // the pointer has left meanwhile
    const widest = Math.min(WIDEST, document.documentElement.clientWidth - 2 * MARGIN);
    const room = (widest - 2 * MARGIN - 2 * BORDER) / dpoBreaks.pixelsInEx();
    preview.replaceChildren(dpoBreaks.draw(tex.replace(TAG, ""), room));
    preview.hidden = false;
    const place = link.getBoundingClientRect(), box = preview.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - box.width - MARGIN);
    const above = place.top > box.height + 80; // 80: the page's header
    preview.style.left = `${Math.max(MARGIN, left) + scrollX}px`;
    preview.style.top = `${(above ? place.top - box.height - 8 : place.bottom + 8) + scrollY}px`;
    link.setAttribute("aria-describedby", preview.id);
  };

  addEventListener("DOMContentLoaded", () => {
    document.body.append(preview);
    document.querySelectorAll("a.dpo-eq").forEach((link) => {
      ["pointerenter", "focus"].forEach((type) => link.addEventListener(type, () => show(link)));
      link.addEventListener("blur", hide);
      link.addEventListener("pointerleave", (event) => {
        if (event.relatedTarget !== preview) hide();
      });
    });
    preview.addEventListener("pointerleave", hide);
    addEventListener("keydown", (event) => event.key === "Escape" && hide());
  });
})();
