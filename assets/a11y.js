// What the theme leaves out for keyboards and screen readers; axe-core found it.
(() => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);

  const names = () => {
    // A name that differs from the visible text cannot be spoken to.
    each(".search-button-field, summary[aria-label]", (e) => e.removeAttribute("aria-label"));
    each(".theme-switch", (e) => e.removeAttribute("title"));
    // It watches a list of headings that this book does not have, and throws on #beta=0.3.
    document.body.removeAttribute("data-bs-spy");
    // The book's title lies outside every landmark.
    each(".sidebar-primary-item:has(> .navbar-brand)", (e) => {
      e.setAttribute("role", "navigation");
      e.setAttribute("aria-label", "Book title");
    });
    // Bootstrap's spy finds no contents of its name, takes every link for one, trips over "=".
    delete document.body.dataset.bsSpy;
  };

  // The first change of state comes before Font Awesome makes images of icons and their titles.
  document.addEventListener("readystatechange", names, { once: true });
})();
