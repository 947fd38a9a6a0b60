// On paper nothing can be unfolded: what is closed is opened for the print, and closed after it.
(() => {
  let opened = [];

  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((e) => { e.open = true; });
  });

  addEventListener("afterprint", () => opened.forEach((e) => { e.open = false; }));
})();
