// What is folded opens when a link leads into it.
(() => {
  window.dpoReveal = (element, where) => {
    const inside = element.querySelector(":scope.dpo-depth > details > summary") ?? element;
    for (let fold = inside.closest("details"); fold; fold = fold.parentElement.closest("details"))
      fold.open = true;
    element.scrollIntoView(where);
  };

  const follow = () => {
    const target = document.getElementById(window.dpoAddress.read().id);
    if (target) window.dpoReveal(target);
  };

  addEventListener("DOMContentLoaded", follow);
  addEventListener("hashchange", follow);
})();
