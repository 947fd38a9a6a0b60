// What is folded opens when a link leads into it.
(() => {
  const open = (element) => {
    for (let fold = element?.closest("details"); fold; fold = fold.parentElement.closest("details"))
      fold.open = true;
  };

  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    open(target.querySelector(":scope.dpo-depth > details > summary") ?? target);
    target.scrollIntoView();
  };

  addEventListener("DOMContentLoaded", follow);
  addEventListener("hashchange", follow);
})();
