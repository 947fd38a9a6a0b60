// The table of all questions (book/progress): what this browser knows of the reader's answers.
(() => {
  const words = {
    made: "predicted",
    tried: "open, tried",
    first: "right at the first try",
    later: "right later",
    shown: "answer looked up",
  };

  addEventListener("DOMContentLoaded", () => {
    const root = document.querySelector(".dpo-progress");
    if (!root) return;
    const cells = [...root.querySelectorAll("[data-name]")];
    const said = root.querySelector("[role=status]");
    const erase = root.querySelector("button");

    const draw = () => {
      const states = cells.map((cell) => dpoAnswers.get(cell.dataset.name).state);
      cells.forEach((cell, row) => (cell.textContent = words[states[row]] ?? "open"));
      const done = states.filter((state) => state && state !== "tried").length;
      said.textContent = `Done: ${done} of ${cells.length}.`;
    };

    erase.hidden = false;
    erase.addEventListener("click", () => {
      if (!confirm("Erase all your predictions and answers in this browser?")) return;
      dpoAnswers.erase();
      said.textContent = "Everything is erased.";
    });
    addEventListener("dpo-answers", draw);
    draw();
  });
})();
